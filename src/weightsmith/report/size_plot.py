"""What each exported type costs and keeps: size against divergence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weightsmith.report.report_facts import ReportFile
from weightsmith.report.svg_figure import svg_figure


def size_plot(files: Sequence[ReportFile]) -> str:
    """An SVG element with a point for each file whose divergence was measured; empty for fewer than two. Raises
    ReportError."""
    measured = [(file.bytes / 1e6, file.divergence, file.name) for file in files if file.divergence is not None]
    if len(measured) < 2:
        return ""

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        for size, divergence, name in measured:
            axis.plot([size], [divergence], "o", color="C0")
            label = name.rpartition("/")[2].replace("$", r"\$")
            axis.annotate(label, (size, divergence), textcoords="offset points", xytext=(6, 6), fontsize=8)
        axis.set_xlabel("MB")
        axis.set_ylabel("KL divergence, nats per token")
        axis.margins(x=0.25, y=0.2)
        axis.set_ylim(bottom=min(0.0, *(divergence for _, divergence, _ in measured)))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)

    return svg_figure(draw, (7.2, 3.2))
