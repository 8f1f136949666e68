"""An evaluation as a table for the terminal: one row per model, one column per task."""

from weightsmith.evaluate.score_models import Evaluation


def score_table(evaluation: Evaluation) -> str:
    """Markdown, aligned: a table that reads in a terminal and pastes into a README."""
    tasks = evaluation.models[0].scores
    rows = [["model", *(f"{s.task} ({'exact' if s.metric == 'exact_match' else 'perplexity'})" for s in tasks)]]
    for model in evaluation.models:
        cells = [f"{s.value:.1%}" if s.metric == "exact_match" else f"{s.value:.2f}" for s in model.scores]
        rows.append([model.label, *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [lines[0], rule, *lines[1:]])
