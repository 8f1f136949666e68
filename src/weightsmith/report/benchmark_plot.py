"""A benchmark as a picture: one row per task, one point per model with its standard error."""

from __future__ import annotations

from typing import Any

from weightsmith.report.benchmark_tables import BenchmarkTables
from weightsmith.report.svg_figure import svg_figure


def benchmark_plot(tables: BenchmarkTables) -> str:
    """An SVG element; empty where nothing is a percentage. Raises ReportError."""
    if not tables.bars:
        return ""

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        step = 0.7 / len(tables.models)
        for i, label in enumerate(tables.models):
            positions = [n + (i - (len(tables.models) - 1) / 2) * step for n in range(len(tables.bars))]
            values = [values_and_errors[i][0] for _, values_and_errors in tables.bars]
            errors = [values_and_errors[i][1] or 0.0 for _, values_and_errors in tables.bars]
            axis.errorbar(values, positions, xerr=errors, fmt="o", markersize=4, capsize=2, label=label, color=f"C{i}")
        axis.set_yticks(range(len(tables.bars)), [name for name, _ in tables.bars])
        axis.invert_yaxis()
        axis.set_xlabel("%, ± one standard error")
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=min(6, len(tables.models)), frameon=False)

    return svg_figure(draw, (9.6, 1.6 + len(tables.bars) * (0.25 + 0.1 * len(tables.models))))
