"""An evaluation as a Markdown table: one row per model, one column per task. It reads in a terminal as well."""

from weightsmith.evaluation.evaluate import WINDOW, Evaluation, TaskScore
from weightsmith.report.markdown_table import markdown_table

METRIC_NAMES = {"exact_match": "exact match", "perplexity": "perplexity"}


def show_score(score: TaskScore) -> str:
    """`98.3 %` of the questions, or a perplexity with two decimals."""
    return f"{100 * score.value:.1f} %" if score.metric == "exact_match" else f"{score.value:.2f}"


def score_cells(evaluation: Evaluation) -> list[list[str]]:
    """Heading and rows as text."""
    tasks = evaluation.models[0].scores
    heading = ["model", *(f"{s.task} ({METRIC_NAMES[s.metric]})" for s in tasks)]
    return [heading, *([model.label, *map(show_score, model.scores)] for model in evaluation.models)]


def score_table(evaluation: Evaluation) -> str:
    """Markdown with aligned columns."""
    return markdown_table(score_cells(evaluation))


def score_note(evaluation: Evaluation) -> str:
    """What the numbers are, and how many questions or tokens are behind each."""
    tasks = evaluation.models[0].scores
    counts = ", ".join(f"{s.task} {s.count} {'questions' if s.metric == 'exact_match' else 'tokens'}" for s in tasks)
    return (
        "Exact match: the greedy answer equals the target. Perplexity: per token of each model's own tokenizer, "
        f"windows of {WINDOW} tokens. Scored on: {counts}."
    )
