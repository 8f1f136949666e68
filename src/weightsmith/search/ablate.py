"""`weightsmith ablate`: which layers of which model carry which skill? Each model is left out of each block of layers, by a weight of zero
there, and what that costs is measured; merges happen in memory, and only the layers of one block are computed anew."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from weightsmith.architecture.layer_numbers import LAYER
from weightsmith.errors import OutputError, SearchError
from weightsmith.evaluate.benchmark import fast_precision
from weightsmith.evaluate.memory_plan import available_memory
from weightsmith.recipe.load import load_recipe
from weightsmith.recipe.plan import Plan, TensorPlan
from weightsmith.report.facts import machine
from weightsmith.report.svg_figure import svg_figure
from weightsmith.search.input_cache import InputCache
from weightsmith.search.live_merge import LiveMerge
from weightsmith.search.objectives import Objective, open_objectives, value
from weightsmith.search.results import write_whole
from weightsmith.search.schema import ObjectiveEntry, SearchFile
from weightsmith.search.space import short_name

OTHERS = "embeddings and head"
_CACHE_SHARE = 0.5


@dataclass(frozen=True)
class Ablation:
    """`whole`: the value of each objective with every model everywhere; `without[model][block]`: the same values with the model left
    out of that block, in the order of `blocks`; the last block is what is in no layer."""

    objectives: tuple[Objective, ...]
    blocks: tuple[str, ...]
    whole: tuple[float, ...]
    without: dict[str, tuple[tuple[float, ...], ...]]
    files: tuple[Path, ...]


def ablate(
    recipe: Path | str, out: Path | str, *, questions: Sequence[str] = (), texts: Sequence[str] = (), tasks: Sequence[str] = (),
    data: Path | None = None, limit: int | None = None, blocks: int = 6, threads: int | None = None, precision: str = "auto",
    force: bool = False, say: Callable[[str], None] = lambda text: None,
    progress: Callable[[str, int, int], None] = lambda label, done, total: None,
) -> Ablation:  # fmt: skip
    """Of a recipe whose method has weights, with at least two models. Writes `ablation.csv` and `ablation.html` into `out`. Raises
    WeightsmithError."""
    entries = [ObjectiveEntry(questions=path, limit=limit) for path in questions]
    entries += [ObjectiveEntry(perplexity=path) for path in texts]
    entries += [ObjectiveEntry(task=name, limit=limit) for name in tasks]
    if not entries:
        raise SearchError("nothing to measure: give questions (JSONL), a text, or tasks")
    folder, path = Path(out), Path(recipe)
    if folder.exists() and any(folder.iterdir()) and not force:
        raise OutputError(f"{folder}: exists and is not empty; choose another folder, or --force")
    folder.mkdir(parents=True, exist_ok=True)
    loaded = load_recipe(path)
    search = SearchFile(recipe=loaded.file.tree, objective=entries, data=str(data) if data else None)
    live = LiveMerge(
        path, threads=threads or len(os.sched_getaffinity(0)),
        precision=fast_precision() if precision == "auto" else precision,
        cache=InputCache(folder, int(available_memory() * _CACHE_SHARE)),
    )  # fmt: skip
    plan = live.plan(loaded.file.tree)
    models = _models(plan)
    spans = _blocks(plan, blocks)
    live.become(plan)
    assert live.backend
    objectives = open_objectives(search, Path.cwd(), live.backend)
    whole = _values(live, objectives)
    say("whole: " + _shown(objectives, whole))
    without: dict[str, list[tuple[float, ...]]] = {}
    total = len(models) * len(spans)
    for label, reference in models.items():
        without[label] = []
        for name, tensors in spans.items():
            live.become(_left_out(plan, reference, tensors))
            without[label].append(_values(live, objectives))
            say(f"without {label} in {name}: " + _shown(objectives, without[label][-1]))
            progress("ablations", sum(map(len, without.values())), total)
    live.close()
    found = {label: tuple(rows) for label, rows in without.items()}
    result = Ablation(tuple(objectives), tuple(spans), whole, found, ())
    return replace(result, files=tuple(_write(result, folder, path)))


def _models(plan: Plan) -> dict[str, str]:
    """Label -> reference of those whose weight can be taken away. Raises SearchError where there are fewer than two."""
    weighted = {
        source.model.reference
        for tensor in plan.tensors
        for source, given in zip(tensor.sources, tensor.settings.per_input, strict=True)
        if "weight" in given
    }
    references = [reference for reference in plan.models if reference in weighted]
    if len(references) < 2:
        raise SearchError(
            f"{plan.loaded.file.path}: {plan.method.name} has no weights that could be taken away from one of several models"
        )
    labels = [short_name(reference) for reference in references]
    return dict(zip(labels if len(set(labels)) == len(labels) else references, references, strict=True))


def _blocks(plan: Plan, count: int) -> dict[str, set[str]]:
    """Name of a block -> its tensors."""
    numbers = {tensor.name: int(match[2]) for tensor in plan.tensors if (match := LAYER.match(tensor.name))}
    depth = max(numbers.values(), default=-1) + 1
    count = min(count, depth)
    found: dict[str, set[str]] = {}
    for k in range(count):
        first, last = k * depth // count, (k + 1) * depth // count - 1
        name = f"layers {first} to {last}" if last > first else f"layer {first}"
        found[name] = {tensor for tensor, number in numbers.items() if first <= number <= last}
    found[OTHERS] = {tensor.name for tensor in plan.tensors if tensor.name not in numbers}
    return found


def _left_out(plan: Plan, reference: str, tensors: set[str]) -> Plan:
    return replace(plan, tensors=tuple(_without(t, reference) if t.name in tensors else t for t in plan.tensors))


def _without(tensor: TensorPlan, reference: str) -> TensorPlan:
    given = tuple(
        own | {"weight": 0.0} if source.model.reference == reference and "weight" in own else own
        for source, own in zip(tensor.sources, tensor.settings.per_input, strict=True)
    )
    return replace(tensor, settings=replace(tensor.settings, per_input=given)) if not tensor.copy else tensor


def _values(live: LiveMerge, objectives: Sequence[Objective]) -> tuple[float, ...]:
    assert live.backend
    return tuple(value(one, one.ask(live.backend, range(one.units))) for one in objectives)


def _shown(objectives: Sequence[Objective], values: Sequence[float]) -> str:
    return ", ".join(f"{one.name} {found:.4g}" for one, found in zip(objectives, values, strict=True))


def _write(found: Ablation, folder: Path, recipe: Path) -> list[Path]:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["model", "block", *(o.name for o in found.objectives)])
    writer.writerow(["none", "none", *found.whole])
    for label, rows in found.without.items():
        for block, values in zip(found.blocks, rows, strict=True):
            writer.writerow([label, block, *values])
    maps = "".join(
        f"<h2>{one.name}: {found.whole[k]:.2f} with all of them</h2>{_heat_map(found, k)}"
        for k, one in enumerate(found.objectives)
    )
    page = _PAGE.format(recipe=json.dumps(recipe.name)[1:-1].replace("<", "&lt;"), maps=maps, machine=machine())
    return write_whole(folder, {"ablation.csv": text.getvalue(), "ablation.html": page})


def _heat_map(found: Ablation, number: int) -> str:
    """How the value changes; what became worse is red."""
    labels = list(found.without)
    changes = [[values[number] - found.whole[number] for values in found.without[label]] for label in labels]
    better = 1 if found.objectives[number].higher_is_better else -1
    most = max((abs(change) for row in changes for change in row), default=0.0) or 1.0

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        axis.imshow([[better * c for c in row] for row in changes], cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
        axis.set_yticks(range(len(labels)), labels)
        axis.set_xticks(range(len(found.blocks)), found.blocks, rotation=25, ha="right", fontsize=8)
        for y, row in enumerate(changes):
            for x, change in enumerate(row):
                dark = abs(change) > 0.6 * most
                axis.text(
                    x, y, f"{change:+.2f}", ha="center", va="center", fontsize=8, color="white" if dark else "black"
                )
        axis.set_title("change where a model is left out of a block", fontsize=9)

    return svg_figure(draw, (9.6, 1.6 + 0.5 * len(labels)))


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Ablation: {recipe}</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
svg {{ max-width: 100%; height: auto; }} footer {{ color: #777; font-size: .9rem; }}</style>
<h1>Which layers carry which skill: {recipe}</h1>
<p>Each cell: a model was left out of a block of layers, all else as in the recipe. Red is worse.</p>
{maps}
<footer>{machine}</footer>
</html>
"""
