"""A matplotlib figure as an SVG element of a page."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from weightsmith.errors import ReportError


def svg_figure(draw: Callable[[Any], None], size: tuple[float, float]) -> str:
    """What `draw` puts into a figure of `size` inches; the same drawing gives the same bytes. Raises ReportError where
    matplotlib is not installed."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ReportError("a report needs matplotlib: `pip install 'weightsmith[report]'`") from error
    # A fixed salt and no date: the same scores give the same bytes. A dollar in a name is no mathematics.
    settings: dict[Any, Any] = {
        "svg.hashsalt": "weightsmith",
        "svg.fonttype": "path",
        "font.size": 10,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
