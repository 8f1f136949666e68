"""What an ablation found, as a table and as heat maps."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from weightsmith.evaluation.results.evaluation import Evaluation
from weightsmith.evaluation.results.paired_tests import LEVEL, holm
from weightsmith.files.write_whole import write_whole
from weightsmith.recipe_search.objectives import Objective
from weightsmith.report.render_template import render_template
from weightsmith.report.svg_figure import svg_figure

TABLE, PAGE = "ablation.csv", "ablation.html"
TEMPLATES = "weightsmith.recipe_search.report"


@dataclass(frozen=True)
class Ablation:
    """`whole`: the value of each objective with every model everywhere; `without[model][block]`: the same values with
    the model left out of that block, in the order of `blocks`; the last block is what is in no layer;
    `p[model][block]`: how often chance makes such a difference, by a paired bootstrap. `evaluation`: the same as one,
    in which each "without MODEL in BLOCK" is compared with "whole"."""

    objectives: tuple[Objective, ...]
    blocks: tuple[str, ...]
    whole: tuple[float, ...]
    without: dict[str, tuple[tuple[float, ...], ...]]
    p: dict[str, tuple[tuple[float, ...], ...]]
    files: tuple[Path, ...]
    evaluation: Evaluation | None = None

    @cached_property
    def p_holm(self) -> dict[str, tuple[tuple[float, ...], ...]]:
        """`p` corrected for looking at all of them together (Holm)."""
        flat = [p for rows in self.p.values() for row in rows for p in row]
        corrected = iter(holm(flat))
        return {label: tuple(tuple(next(corrected) for _ in row) for row in rows) for label, rows in self.p.items()}


def discard_ablation(folder: Path) -> None:
    """What is written there, if it is there."""
    for name in (TABLE, PAGE):
        (folder / name).unlink(missing_ok=True)


def write_ablation(ablation: Ablation, folder: Path, name: str, recipe: str) -> list[Path]:
    """The table and the page of an ablation of the file `name`; `recipe`: what is in it, without paths. Raises
    ReportError."""
    text = io.StringIO()
    writer = csv.writer(text)
    heads = [word for o in ablation.objectives for word in (o.name, f"{o.name}: p", f"{o.name}: p (Holm)")]
    writer.writerow(["model", "block", *heads])
    writer.writerow(["none", "none", *(word for whole in ablation.whole for word in (whole, "", ""))])
    for label, rows in ablation.without.items():
        for block, *columns in zip(ablation.blocks, rows, ablation.p[label], ablation.p_holm[label], strict=True):
            writer.writerow([label, block, *(word for cell in zip(*columns, strict=True) for word in cell)])
    maps = [
        (
            f"{objective.name} ({objective.metric}): {ablation.whole[number]:.4g} with all of them",
            _svg(ablation, number),
        )
        for number, objective in enumerate(ablation.objectives)
    ]
    values = {"title": f"Which layers carry which skill: {name}", "maps": maps, "recipe": recipe}
    page = render_template("ablation_report.html.j2", values, TEMPLATES)
    return [write_whole(folder / TABLE, text.getvalue()), write_whole(folder / PAGE, page)]


def _svg(ablation: Ablation, number: int) -> str:
    size = (9.6, 1.6 + 0.5 * len(ablation.without))
    return svg_figure(lambda figure: draw_heat_map(figure.subplots(), ablation, number), size)


def draw_heat_map(axis: Any, ablation: Ablation, number: int) -> None:
    """On a matplotlib axis: what became worse is red, what chance may have done in brackets."""
    labels = list(ablation.without)
    changes = [[values[number] - ablation.whole[number] for values in ablation.without[label]] for label in labels]
    better = 1 if ablation.objectives[number].higher_is_better else -1
    largest = max((abs(change) for row in changes for change in row if math.isfinite(change)), default=0.0) or 1.0
    axis.imshow([[better * c for c in row] for row in changes], cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto")
    axis.set_yticks(range(len(labels)), labels)
    axis.set_xticks(range(len(ablation.blocks)), ablation.blocks, rotation=25, ha="right", fontsize=8)
    for y, row in enumerate(changes):
        for x, change in enumerate(row):
            chance = ablation.p_holm[labels[y]][x][number] >= LEVEL
            color = "white" if abs(change) > 0.6 * largest else "0.4" if chance else "black"
            shown = f"{change:+.0f}" if abs(change) >= 100 else f"{change:+.2g}"
            axis.text(x, y, f"({shown})" if chance else shown, ha="center", va="center", fontsize=8, color=color)
    objective = ablation.objectives[number]
    axis.set_title(
        f"{objective.name}: change of {ablation.whole[number]:.4g} {objective.metric}; in brackets: within noise",
        fontsize=9,
    )
