"""Scores as a picture: one row per task, a bar or point for each model with its standard error."""

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
            _rows(axis, bars, models, from_zero=title == "%")
            axis.set_xlabel(f"{title}, ± one standard error")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(models)), frameon=False)

    rows = max(len(bars) for bars, _ in panels)
    return svg_figure(draw, (9.6, 1.6 + rows * (0.25 + 0.1 * len(models))))


def _rows(axis: Any, bars: Bars, models: Sequence[str], *, from_zero: bool) -> None:
    """Bars for percentages; points for perplexities, of which 0 is no value."""
    step = 0.7 / len(models)
    for i, label in enumerate(models):
        positions = [n + (i - (len(models) - 1) / 2) * step for n in range(len(bars))]
        values = [values_and_errors[i][0] for _, values_and_errors in bars]
        errors = [values_and_errors[i][1] or 0.0 for _, values_and_errors in bars]
        label = label.replace("$", r"\$")
        if from_zero:
            axis.barh(
                positions, values, height=0.9 * step, xerr=errors, label=label, color=f"C{i}", error_kw={"capsize": 2}
            )
        else:
            axis.errorbar(values, positions, xerr=errors, fmt="o", markersize=4, capsize=2, label=label, color=f"C{i}")
    if from_zero:
        axis.set_xlim(left=0, right=max(1.0, axis.get_xlim()[1]))
    axis.set_yticks(range(len(bars)), [name for name, _ in bars])
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
