"""Scores as a picture: one row per task, one point per model with its standard error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weightsmith.evaluation.results.score_tables import Bars, SuiteTables
from weightsmith.report.svg_figure import svg_figure


def score_plot(tables: SuiteTables, models: Sequence[str]) -> str:
    """An SVG element, with percentages and perplexities side by side; empty where there are neither. Raises
    ReportError."""
    panels = [
        (bars, title)
        for bars, title in ((tables.percentages, "%"), (tables.perplexities, "perplexity (less is better)"))
        if bars
    ]
    if not panels:
        return ""

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (bars, title) in zip(axes, panels, strict=True):
            _points(axis, bars, models)
            axis.set_xlabel(f"{title}, ± one standard error")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(models)), frameon=False)

    rows = max(len(bars) for bars, _ in panels)
    return svg_figure(draw, (9.6, 1.6 + rows * (0.25 + 0.1 * len(models))))


def _points(axis: Any, bars: Bars, models: Sequence[str]) -> None:
    step = 0.7 / len(models)
    for i, label in enumerate(models):
        positions = [n + (i - (len(models) - 1) / 2) * step for n in range(len(bars))]
        values = [values_and_errors[i][0] for _, values_and_errors in bars]
        errors = [values_and_errors[i][1] or 0.0 for _, values_and_errors in bars]
        axis.errorbar(values, positions, xerr=errors, fmt="o", markersize=4, capsize=2, label=label, color=f"C{i}")
    axis.set_yticks(range(len(bars)), [name for name, _ in bars])
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
