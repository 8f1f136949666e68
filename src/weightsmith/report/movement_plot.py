"""Task vectors as pictures: how far each module of each layer moved, and how alike two fine-tunes are."""

from __future__ import annotations

import math
from typing import Any

from weightsmith.inspection.movement import Movement
from weightsmith.report.svg_figure import svg_figure

_MOST_MODULES = 24  # rows of a panel that can still be read
_MOST_MODELS = 12


def movement_plot(movement: Movement) -> str:
    """An SVG element: a panel for each fine-tune, a row for each module, a column for each layer, coloured by
    |task vector| / |base|. Empty where there are no layers. Raises ReportError."""
    modules = list(dict.fromkeys(cell.module for cell in movement.cells if cell.layer is not None))[:_MOST_MODULES]
    layers = sorted({cell.layer for cell in movement.cells if cell.layer is not None})
    if not modules or not movement.names:
        return ""
    moved = {(cell.layer, cell.module): cell.moved for cell in movement.cells}
    names = movement.names[:_MOST_MODELS]
    top = max(
        (value for cell in movement.cells for value in cell.moved if cell.layer is not None and math.isfinite(value)),
        default=0.0,
    )

    def draw(figure: Any) -> None:
        axes = figure.subplots(len(names), 1, squeeze=False)[:, 0]
        meshes = []
        for number, (axis, name) in enumerate(zip(axes, names, strict=True)):
            values = [
                [min(moved[layer, module][number], top) if (layer, module) in moved else math.nan for layer in layers]
                for module in modules
            ]
            meshes.append(axis.pcolormesh(values, cmap="viridis", vmin=0, vmax=top or 1))
            axis.set_title(_short(name), loc="left", fontsize=10)
            axis.set_yticks([row + 0.5 for row in range(len(modules))], modules, fontsize=7)
            step = max(1, len(layers) // 12)
            axis.set_xticks([column + 0.5 for column in range(0, len(layers), step)], layers[::step], fontsize=7)
            axis.invert_yaxis()
        axes[-1].set_xlabel("layer")
        figure.colorbar(meshes[-1], ax=list(axes), label="|task vector| / |base|", shrink=0.6)

    return svg_figure(draw, (9.6, 0.8 + len(names) * (0.5 + 0.16 * len(modules))))


def similarity_plot(movement: Movement) -> str:
    """An SVG element: the cosine of each two task vectors. Empty for fewer than three, which a table says as well.
    Raises ReportError."""
    names = movement.names[:_MOST_MODELS]
    if len(names) < 3:
        return ""
    cosine = {frozenset((pair.first, pair.second)): pair.cosine for pair in movement.pairs}

    def value(a: str, b: str) -> float:
        found = 1.0 if a == b else cosine.get(frozenset((a, b)))
        return math.nan if found is None else found

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        axis.pcolormesh([[value(a, b) for b in names] for a in names], cmap="RdBu_r", vmin=-1, vmax=1)
        for row, a in enumerate(names):
            for column, b in enumerate(names):
                if math.isfinite(value(a, b)):
                    dark = abs(value(a, b)) > 0.6
                    text = f"{value(a, b):.2f}".replace("-0.00", "0.00")
                    color = "white" if dark else "black"
                    axis.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=color, fontsize=8)
        ticks = [number + 0.5 for number in range(len(names))]
        axis.set_xticks(ticks, map(_short, names), rotation=30, ha="right", fontsize=8)
        axis.set_yticks(ticks, map(_short, names), fontsize=8)
        axis.invert_yaxis()
        axis.set_aspect("equal")

    return svg_figure(draw, (2.4 + 0.6 * len(names), 1.4 + 0.5 * len(names)))


def _short(name: str) -> str:
    """A title that has room."""
    return name if len(name) <= 40 else f"{name[:18]}…{name[-20:]}"
