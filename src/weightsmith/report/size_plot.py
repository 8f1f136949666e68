"""What size costs: the size of files against how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weightsmith.evaluation.results.evaluated_model import EvaluatedModel
from weightsmith.evaluation.results.score_tables import EvaluationTables
from weightsmith.report.report_facts import ReportFile
from weightsmith.report.svg_figure import svg_figure

_Point = tuple[int, float, str]  # bytes, height, name


def size_plot(files: Sequence[ReportFile]) -> str:
    """An SVG element with a point for each file whose divergence was measured; empty for fewer than two. Raises
    ReportError."""
    points = [
        (file.bytes, file.divergence, file.name.rpartition("/")[2]) for file in files if file.divergence is not None
    ]
    bottom = min([0.0, *(divergence for _, divergence, _ in points)])
    return _plot(points, "KL divergence, nats per token", bottom)


def quality_plot(tables: EvaluationTables, models: Sequence[EvaluatedModel]) -> str:
    """An SVG element with a point for each model on disk, by the mean of its averages over suites; empty where fewer
    than two sizes or no averages are known. Raises ReportError."""
    averages = [[value for value, _ in of_suite] for _, of_suite in tables.averages]
    if not averages or len({model.bytes for model in models if model.bytes is not None}) < 2:
        return ""
    means = [sum(values) / len(values) for values in zip(*averages, strict=True)]
    points = [
        (model.bytes, mean, model.label) for model, mean in zip(models, means, strict=True) if model.bytes is not None
    ]
    return _plot(points, "average, %", 0.0)


def _plot(points: Sequence[_Point], height: str, bottom: float) -> str:
    if len(points) < 2:
        return ""

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        for size, value, name in points:
            axis.plot([size / 1e6], [value], "o", color="C0")
            axis.annotate(name, (size / 1e6, value), textcoords="offset points", xytext=(6, 6), fontsize=8)
        axis.set_xlabel("MB")
        axis.set_ylabel(height)
        axis.margins(x=0.25, y=0.2)
        axis.set_ylim(bottom=bottom)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)

    return svg_figure(draw, (7.2, 3.2))
