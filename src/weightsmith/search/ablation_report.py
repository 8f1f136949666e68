"""What an ablation found, as a table and as heat maps."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from weightsmith.evaluate.compare import LEVEL
from weightsmith.report.facts import machine
from weightsmith.report.svg_figure import svg_figure
from weightsmith.search.objectives import Objective
from weightsmith.search.results import write_whole

TABLE, PAGE = "ablation.csv", "ablation.html"


@dataclass(frozen=True)
class Ablation:
    """`whole`: the value of each objective with every model everywhere; `without[model][block]`: the same values with the model left
    out of that block, in the order of `blocks`; the last block is what is in no layer; `p[model][block]`: how often chance makes such a
    difference, by a paired bootstrap."""

    objectives: tuple[Objective, ...]
    blocks: tuple[str, ...]
    whole: tuple[float, ...]
    without: dict[str, tuple[tuple[float, ...], ...]]
    p: dict[str, tuple[tuple[float, ...], ...]]
    files: tuple[Path, ...]


def discard_ablation(folder: Path) -> None:
    """What is written there, if it is there."""
    for name in (TABLE, PAGE):
        (folder / name).unlink(missing_ok=True)


def write_ablation(found: Ablation, folder: Path, recipe: str) -> list[Path]:
    """The table and the page of an ablation of the file called `recipe`. Raises ReportError."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["model", "block", *(word for o in found.objectives for word in (o.name, f"{o.name}: p"))])
    writer.writerow(["none", "none", *(word for whole in found.whole for word in (whole, ""))])
    for label, rows in found.without.items():
        for block, values, chances in zip(found.blocks, rows, found.p[label], strict=True):
            writer.writerow([label, block, *(word for both in zip(values, chances, strict=True) for word in both)])
    maps = "".join(
        f"<h2>{escape(one.name)} ({one.metric}): {found.whole[k]:.4g} with all of them</h2>{_svg(found, k)}"
        for k, one in enumerate(found.objectives)
    )
    page = _PAGE.format(recipe=escape(recipe), maps=maps, machine=machine())
    return write_whole(folder, {TABLE: text.getvalue(), PAGE: page})


def _svg(found: Ablation, number: int) -> str:
    size = (9.6, 1.6 + 0.5 * len(found.without))
    return svg_figure(lambda figure: draw_heat_map(figure.subplots(), found, number), size)


def draw_heat_map(axis: Any, found: Ablation, number: int) -> None:
    """On a matplotlib axis: what became worse is red, what chance may have done in brackets."""
    labels = list(found.without)
    changes = [[values[number] - found.whole[number] for values in found.without[label]] for label in labels]
    better = 1 if found.objectives[number].higher_is_better else -1
    most = max((abs(change) for row in changes for change in row if math.isfinite(change)), default=0.0) or 1.0
    axis.imshow([[better * c for c in row] for row in changes], cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    axis.set_yticks(range(len(labels)), labels)
    axis.set_xticks(range(len(found.blocks)), found.blocks, rotation=25, ha="right", fontsize=8)
    for y, row in enumerate(changes):
        for x, change in enumerate(row):
            chance = found.p[labels[y]][x][number] >= LEVEL
            color = "white" if abs(change) > 0.6 * most else "0.4" if chance else "black"
            shown = f"{change:+.0f}" if abs(change) >= 100 else f"{change:+.2g}"
            axis.text(x, y, f"({shown})" if chance else shown, ha="center", va="center", fontsize=8, color=color)
    one = found.objectives[number]
    axis.set_title(
        f"{one.name}: change of {found.whole[number]:.4g} {one.metric}; in brackets: within noise", fontsize=9
    )


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Ablation: {recipe}</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
svg {{ max-width: 100%; height: auto; }} footer {{ color: #777; font-size: .9rem; }}</style>
<h1>Which layers carry which skill: {recipe}</h1>
<p>Each cell: a model was left out of a block of layers, all else as in the recipe. Red is worse; in brackets is what chance alone does
in more than one case of twenty (paired bootstrap over questions).</p>
{maps}
<footer>{machine}</footer>
</html>
"""
