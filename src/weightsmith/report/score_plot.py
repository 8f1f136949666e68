"""An evaluation as a picture: questions answered right and perplexity, one colour per model."""

from __future__ import annotations

from typing import Any

from weightsmith.evaluation.evaluate import Evaluation
from weightsmith.report.svg_figure import svg_figure

PANELS = (("exact_match", "questions answered right, %"), ("perplexity", "perplexity (lower is better)"))


def score_plot(evaluation: Evaluation) -> str:
    """The plot as an SVG element. Raises ReportError where matplotlib is not installed."""
    scores = evaluation.models[0].scores
    panels = [(metric, title) for metric, title in PANELS if any(s.metric == metric for s in scores)]
    widths = [sum(s.metric == metric for s in scores) for metric, _ in panels]

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, len(panels), width_ratios=widths, squeeze=False)[0]
        for axis, (metric, title) in zip(axes, panels, strict=True):
            _bars(axis, evaluation, metric, title)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False)

    return svg_figure(draw, (9.6, 3.8))


def _bars(axis: Any, evaluation: Evaluation, metric: str, title: str) -> None:
    names = [s.task for s in evaluation.models[0].scores if s.metric == metric]
    factor = 100 if metric == "exact_match" else 1
    width = 0.85 / len(evaluation.models)
    for i, model in enumerate(evaluation.models):
        values = [factor * s.value for s in model.scores if s.metric == metric]
        positions = [n + (i - (len(evaluation.models) - 1) / 2) * width for n in range(len(names))]
        axis.bar(positions, values, width * 0.92, label=model.label, color=f"C{i}")
    axis.set_title(title)
    axis.set_xticks(range(len(names)), names)
    axis.spines[["top", "right"]].set_visible(False)
    if metric == "exact_match":
        axis.set_ylim(0, 105)
