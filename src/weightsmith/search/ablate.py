"""`weightsmith ablate`: which layers of which model carry which skill? Each model is left out of each block of layers, by a weight of zero
there, and what that costs is measured; merges happen in memory, and only the layers of one block are computed anew. What was measured is
kept in the folder, for an ablation that was interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import xxhash

from weightsmith.architecture.layer_numbers import LAYER
from weightsmith.engine.output_folder import check_output
from weightsmith.errors import OutputError, SearchError
from weightsmith.evaluate.benchmark import fast_precision
from weightsmith.evaluate.compare import bootstrap_p
from weightsmith.evaluate.memory_plan import available_memory
from weightsmith.recipe.load import load_recipe
from weightsmith.recipe.plan import Plan, TensorPlan
from weightsmith.search.ablation_report import TABLE, Ablation, discard_ablation, write_ablation
from weightsmith.search.input_cache import InputCache
from weightsmith.search.kept_answers import AllAnswers, KeptAnswers
from weightsmith.search.live_merge import LiveMerge
from weightsmith.search.objectives import Objective, open_objectives, value
from weightsmith.search.paired_bootstrap import drawn_differences
from weightsmith.search.schema import ObjectiveEntry, SearchFile
from weightsmith.search.space import short_name

OTHERS, KEPT = "embeddings and head", "answers.jsonl"
_CACHE_SHARE = 0.5


def ablate(
    recipe: Path | str, out: Path | str, *, questions: Sequence[str] = (), texts: Sequence[str] = (), tasks: Sequence[str] = (),
    metric: str | None = None, data: Path | None = None, limit: int | None = None, blocks: int = 6, threads: int | None = None,
    precision: str = "auto", force: bool = False, say: Callable[[str], None] = lambda text: None,
    progress: Callable[[str, int, int], None] = lambda label, done, total: None,
) -> Ablation:  # fmt: skip
    """Of a recipe whose method has weights, with at least two models. `metric`: of `questions`, exact_match or perplexity. Writes
    `ablation.csv` and `ablation.html` into `out`; an unfinished ablation that is there is continued. Raises WeightsmithError."""
    if metric not in (None, "exact_match", "perplexity"):
        raise SearchError(f"--metric {metric}: questions have exact_match and perplexity")
    entries = [ObjectiveEntry(questions=path, metric=metric, limit=limit) for path in questions]
    entries += [ObjectiveEntry(perplexity=path) for path in texts]
    entries += [ObjectiveEntry(task=name, limit=limit) for name in tasks]
    if not entries:
        raise SearchError("nothing to measure: give questions (JSONL), a text, or tasks")
    folder, path = Path(out), Path(recipe)
    for name in (*questions, *texts):
        if not Path(name).is_file():
            raise SearchError(f"{name}: no such file")
    _open_folder(folder, force=force)
    loaded = load_recipe(path)
    search = SearchFile(recipe=loaded.file.tree, objective=entries, data=str(data) if data else None)
    precision = fast_precision() if precision == "auto" else precision
    live = LiveMerge(
        path, threads=threads or len(os.sched_getaffinity(0)), precision=precision,
        cache=InputCache(folder, int(available_memory() * _CACHE_SHARE)),
    )  # fmt: skip
    plan = live.plan(loaded.file.tree)
    models = _models(plan)
    spans = _blocks(plan, blocks)
    kept = KeptAnswers(folder / KEPT, _made_of(loaded.file.text, [*questions, *texts], tasks, metric, limit, precision))
    live.become(plan)
    assert live.backend
    objectives = open_objectives(search, Path.cwd(), live.backend)
    whole = kept.ask({"without": None}, lambda: _ask(live, plan, objectives))
    say("whole: " + _shown(objectives, whole))
    found: dict[str, list[AllAnswers]] = {label: [] for label in models}
    for label, reference in models.items():
        for name, tensors in spans.items():
            without = _left_out(plan, reference, tensors)
            found[label].append(
                kept.ask({"without": label, "in": name}, lambda without=without: _ask(live, without, objectives))
            )
            say(f"without {label} in {name}: " + _shown(objectives, found[label][-1]))
            progress("tried", sum(map(len, found.values())), len(models) * len(spans))
    live.close()
    result = Ablation(
        tuple(objectives), tuple(spans), _values(objectives, whole),
        {label: tuple(_values(objectives, answers) for answers in rows) for label, rows in found.items()},
        {label: tuple(_chances(whole, answers) for answers in rows) for label, rows in found.items()}, (),
    )  # fmt: skip
    return replace(result, files=tuple(write_ablation(result, folder, path.name)))


def _open_folder(folder: Path, *, force: bool) -> None:
    """Empty, or with an ablation that was not finished."""
    if not (folder / KEPT).exists() or (folder / TABLE).exists():
        check_output(folder, force=force)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created: {error.strerror}") from error
    if force:
        (folder / KEPT).unlink(missing_ok=True)
        discard_ablation(folder)


def _made_of(
    recipe: str, files: Sequence[str], tasks: Sequence[str], metric: str | None, limit: int | None, precision: str
) -> dict[str, str]:
    """What the answers of an ablation depend on, by name."""
    told = {
        "recipe": xxhash.xxh3_128_hexdigest(recipe.encode()),
        "list of files": ",".join(files),
        "list of tasks": ",".join(tasks),
    }
    told |= {"metric": str(metric), "limit": str(limit), "precision": precision}
    return told | {path: xxhash.xxh3_128_hexdigest(Path(path).read_bytes()) for path in files}


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


def _ask(live: LiveMerge, plan: Plan, objectives: Sequence[Objective]) -> AllAnswers:
    live.become(plan)
    assert live.backend
    return tuple(one.ask(live.backend, range(one.units)) for one in objectives)


def _values(objectives: Sequence[Objective], answers: AllAnswers) -> tuple[float, ...]:
    return tuple(value(one, found) for one, found in zip(objectives, answers, strict=True))


def _chances(whole: AllAnswers, without: AllAnswers) -> tuple[float, ...]:
    random = np.random.default_rng(0)
    return tuple(bootstrap_p(drawn_differences(a, b, random)) for a, b in zip(whole, without, strict=True))


def _shown(objectives: Sequence[Objective], answers: AllAnswers) -> str:
    values = _values(objectives, answers)
    return ", ".join(f"{one.name} {found:.4g}" for one, found in zip(objectives, values, strict=True))
