"""An evaluation as a Markdown table: one row per model, one column per task. It reads in a terminal as well."""

from weightsmith.evaluate.score_models import WINDOW, Evaluation, Score

METRIC_NAMES = {"exact_match": "exact match", "perplexity": "perplexity"}


def show_score(score: Score) -> str:
    """`98.3 %` of the questions, or a perplexity with two decimals."""
    return f"{100 * score.value:.1f} %" if score.metric == "exact_match" else f"{score.value:.2f}"


def score_cells(evaluation: Evaluation) -> list[list[str]]:
    """Heading and rows as text."""
    tasks = evaluation.models[0].scores
    heading = ["model", *(f"{s.task} ({METRIC_NAMES[s.metric]})" for s in tasks)]
    return [heading, *([model.label, *map(show_score, model.scores)] for model in evaluation.models)]


def score_table(evaluation: Evaluation) -> str:
    """Markdown with aligned columns."""
    rows = score_cells(evaluation)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [lines[0], rule, *lines[1:]])


def score_note(evaluation: Evaluation) -> str:
    """What the numbers are, and how many questions or tokens are behind each."""
    tasks = evaluation.models[0].scores
    counts = ", ".join(f"{s.task} {s.count} {'questions' if s.metric == 'exact_match' else 'tokens'}" for s in tasks)
    return (
        "Exact match: the greedy answer equals the target. Perplexity: per token of each model's own tokenizer, windows of "
        f"{WINDOW} tokens. Scored on: {counts}."
    )
