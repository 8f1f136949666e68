"""Scores as pictures: one row per task or suite, a bar or point for each model with its standard error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weightsmith.evaluation.results.score_tables import Bars, EvaluationTables, SuiteTables
from weightsmith.report.svg_figure import svg_figure


def score_plot(tables: SuiteTables, models: Sequence[str]) -> str:
    """An SVG element, with percentages and perplexities side by side; empty where there are neither. Raises
    ReportError."""
    error = ", ± one standard error"
    panels = [(tables.percentages, f"%{error}"), (tables.perplexities, f"perplexity (less is better){error}")]
    return _plot([(bars, title) for bars, title in panels if bars], models)


def average_plot(tables: EvaluationTables) -> str:
    """An SVG element with a row for each suite; empty where none has an average. Raises ReportError."""
    return _plot([(tables.averages, "%, average of the suite")] if tables.averages else [], tables.models)


def _plot(panels: Sequence[tuple[Bars, str]], models: Sequence[str]) -> str:
    """`panels`: rows, and the title of their axis; percentages begin with a %."""
    if not panels:
        return ""

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        drawn = []
        for axis, (bars, title) in zip(axes, panels, strict=True):
            drawn = _rows(axis, bars, models, from_zero=title.startswith("%"))
            axis.set_xlabel(title)
        figure.legend(drawn, models, loc="outside lower center", ncols=min(6, len(models)), frameon=False)

    rows = max(len(bars) for bars, _ in panels)
    return svg_figure(draw, (9.6, 1.6 + rows * (0.25 + 0.1 * len(models))))


def _rows(axis: Any, bars: Bars, models: Sequence[str], *, from_zero: bool) -> list[Any]:
    """Bars for percentages; points for perplexities, of which 0 is no value. Returns what was drawn of each model."""
    drawn, step = [], 0.7 / len(models)
    for i in range(len(models)):
        positions = [n + (i - (len(models) - 1) / 2) * step for n in range(len(bars))]
        values = [values_and_errors[i][0] for _, values_and_errors in bars]
        known = [values_and_errors[i][1] for _, values_and_errors in bars]
        errors = [error or 0.0 for error in known] if any(known) else None
        if from_zero:
            ticks = {"capsize": 2}
            drawn.append(axis.barh(positions, values, height=0.9 * step, xerr=errors, color=f"C{i}", error_kw=ticks))
        else:
            drawn.append(axis.errorbar(values, positions, xerr=errors, fmt="o", markersize=4, capsize=2, color=f"C{i}"))
    if from_zero:
        axis.set_xlim(left=0, right=max(1.0, axis.get_xlim()[1]))
    axis.set_yticks(range(len(bars)), [name for name, _ in bars])
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    return drawn
