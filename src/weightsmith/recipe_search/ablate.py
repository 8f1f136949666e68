"""`weightsmith ablate`: which layers of which model carry which skill? Each model is left out of each block of layers,
by a weight of zero there, and what that costs is measured; merges happen in memory, and only the layers of one block
are computed anew. What was measured is kept in the folder, for an ablation that was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from weightsmith.engine.output.run_digest import inputs_digest
from weightsmith.errors import SearchError
from weightsmith.evaluation.results.paired_tests import bootstrap_p, drawn_differences
from weightsmith.files.digests import digest, file_digest
from weightsmith.files.find_path import is_file
from weightsmith.files.output_folder import check_apart, check_output
from weightsmith.files.work_folder import work_folder
from weightsmith.machine import available_cores, available_memory, fast_precision
from weightsmith.model_card.public_recipe import public_recipe
from weightsmith.models.find_model import numbered
from weightsmith.models.parts.stacks import LAYER
from weightsmith.planning.plan import Plan, TensorPlan
from weightsmith.progress import OnProgress, Progress, no_progress
from weightsmith.recipe.recipe import load_recipe
from weightsmith.recipe_search.objectives import AllAnswers, Objective, open_objectives, value
from weightsmith.recipe_search.report.ablation_report import TABLE, Ablation, discard_ablation, write_ablation
from weightsmith.recipe_search.report.as_evaluation import as_evaluation
from weightsmith.recipe_search.search_file import ObjectiveEntry, SearchFile
from weightsmith.recipe_search.space import last_name
from weightsmith.recipe_search.trials.input_cache import InputCache
from weightsmith.recipe_search.trials.kept_answers import KeptAnswers
from weightsmith.recipe_search.trials.live_merge import LiveMerge

WHOLE = {"without": None}
OTHERS, ANSWERS = "embeddings and head", "answers.sqlite"
_CACHE_SHARE = 0.5


def ablate(
    recipe: Path | str,
    out: Path | str,
    *,
    questions: Sequence[str] = (),
    texts: Sequence[str] = (),
    tasks: Sequence[str] = (),
    metric: str | None = None,
    data: Path | None = None,
    limit: int | None = None,
    blocks: int = 6,
    threads: int | None = None,
    precision: str = "auto",
    force: bool = False,
    log: Callable[[str], None] = lambda text: None,
    on_progress: OnProgress = no_progress,
) -> Ablation:
    """Measure which layers of which model carry which skill: leave each model of a recipe out of each block of layers,
    and ask what that costs.

    `recipe`: one whose method has weights, with at least two models. `questions`, `texts`: files; `tasks`: of
    lm-evaluation-harness; `metric`: of `questions`, exact_match or perplexity; `limit`: questions of each; `blocks`:
    how many blocks the layers are divided into. Writes `ablation.csv` and `ablation.html` into the folder `out`; an
    ablation that is there already is continued from its answers. Raises WeightsmithError.

    >>> ablation = ws.ablate("ties.yml", "ablation", texts=["novel.txt"], blocks=2)
    >>> sorted(ablation.without)
    ['coder', 'writer']
    """
    if metric not in (None, "exact_match", "perplexity"):
        raise SearchError(f"--metric {metric}: questions have exact_match and perplexity")
    entries = [ObjectiveEntry(questions=path, metric=metric, limit=limit) for path in questions]
    entries += [ObjectiveEntry(perplexity=path) for path in texts]
    entries += [ObjectiveEntry(task=name, limit=limit) for name in tasks]
    if not entries:
        raise SearchError("nothing to measure: give questions (JSONL), a text, or tasks")
    folder, path = Path(out), Path(recipe)
    for name in (*questions, *texts):
        if not is_file(Path(name)):
            raise SearchError(f"{name}: no such file")
    _check_folder(folder, force=force)
    with work_folder(folder, is_worth_keeping=(folder / ANSWERS).exists):
        if force:
            (folder / ANSWERS).unlink(missing_ok=True)
            discard_ablation(folder)
        loaded = load_recipe(path)
        search_file = SearchFile(recipe=loaded.file.tree, objective=entries, data=str(data) if data else None)
        precision = fast_precision() if precision == "auto" else precision
        merge = LiveMerge(
            path,
            threads=threads or available_cores(),
            precision=precision,
            cache=InputCache(folder, int(available_memory() * _CACHE_SHARE)),
        )
        plan = merge.plan(loaded.file.tree)
        read = [path, *(file for model in plan.models.values() for file in model.files)]
        check_apart(folder, read, replaced=False)
        models = _models(plan)
        spans = _blocks(plan, blocks)
        dependencies = _dependencies(loaded.file.text, [*questions, *texts], tasks, metric, limit, precision)
        dependencies |= {"models": inputs_digest(plan.models.values()), "method": plan.method.identity}
        merge.become(plan)
        assert merge.backend
        objectives = open_objectives(search_file, Path.cwd(), merge.backend)
        answers_without: dict[str, list[AllAnswers]] = {label: [] for label in models}
        with KeptAnswers(folder / ANSWERS, dependencies) as kept:
            asked = [WHOLE, *({"without": label, "in": name} for label in models for name in spans)]
            if (folder / TABLE).exists() and not all(map(kept.has, asked)):  # the table is another ablation's
                check_output(folder, force=False, inputs=())
            whole_answers = kept.ask(WHOLE, lambda: _ask(merge, plan, objectives))
            log("whole: " + _shown(objectives, whole_answers))
            for label, reference in models.items():
                for name, tensors in spans.items():
                    changed_plan = _left_out(plan, reference, tensors)
                    answers = kept.ask(
                        {"without": label, "in": name},
                        lambda changed_plan=changed_plan: _ask(merge, changed_plan, objectives),
                    )
                    answers_without[label].append(answers)
                    log(f"without {label} in {name}: " + _shown(objectives, answers))
                    measured = sum(map(len, answers_without.values()))
                    on_progress(Progress("ablating", measured, len(models) * len(spans), "ablations"))
        merge.close()
        by_label = {"whole": whole_answers} | {
            f"without {label} in {name}": answers
            for label, rows in answers_without.items()
            for name, answers in zip(spans, rows, strict=True)
        }
        result = Ablation(
            tuple(objectives),
            tuple(spans),
            _values(objectives, whole_answers),
            {label: tuple(_values(objectives, answers) for answers in rows) for label, rows in answers_without.items()},
            {
                label: tuple(_chances(whole_answers, answers) for answers in rows)
                for label, rows in answers_without.items()
            },
            (),
            as_evaluation(objectives, by_label, "ablation", f"{path.name}, with a model left out of a block of layers"),
        )
        return replace(
            result, files=tuple(write_ablation(result, folder, path.name, public_recipe(plan.recipe, plan.models)))
        )


def _check_folder(folder: Path, *, force: bool) -> None:
    """Empty, or with an ablation."""
    if not (folder / ANSWERS).exists():
        check_output(folder, force=force, inputs=())


def _dependencies(
    recipe: str, files: Sequence[str], tasks: Sequence[str], metric: str | None, limit: int | None, precision: str
) -> dict[str, str]:
    """What the answers of an ablation depend on, by name."""
    dependencies = {
        "recipe": digest(recipe),
        "list of files": ",".join(files),
        "list of tasks": ",".join(tasks),
    }
    dependencies |= {"metric": str(metric), "limit": str(limit), "precision": precision}
    return dependencies | {path: file_digest(Path(path)) for path in files}


def _models(plan: Plan) -> dict[str, str]:
    """Label -> reference of those whose weight can be taken away. Raises SearchError where there are fewer than two."""
    weighted = {
        source.model.reference
        for tensor in plan.tensors
        for source, values in zip(tensor.sources, tensor.settings.per_input, strict=True)
        if "weight" in values
    }
    references = [reference for reference in plan.models if reference in weighted]
    if len(references) < 2:
        raise SearchError(
            f"{plan.recipe.file.path}: {plan.method.name} has no weights that could be set to 0 for one of several "
            "models",
            path=plan.recipe.file.path,
        )
    return dict(zip(numbered([last_name(reference) for reference in references]), references, strict=True))


def _blocks(plan: Plan, count: int) -> dict[str, set[str]]:
    """Name of a block -> its tensors."""
    numbers = {tensor.name: int(match[2]) for tensor in plan.tensors if (match := LAYER.match(tensor.name))}
    depth = max(numbers.values(), default=-1) + 1
    count = min(count, depth)
    found_answers: dict[str, set[str]] = {}
    for k in range(count):
        first, last = k * depth // count, (k + 1) * depth // count - 1
        name = f"layers {first} to {last}" if last > first else f"layer {first}"
        found_answers[name] = {tensor for tensor, number in numbers.items() if first <= number <= last}
    found_answers[OTHERS] = {tensor.name for tensor in plan.tensors if tensor.name not in numbers}
    return found_answers


def _left_out(plan: Plan, reference: str, tensors: set[str]) -> Plan:
    return replace(plan, tensors=tuple(_without(t, reference) if t.name in tensors else t for t in plan.tensors))


def _without(tensor: TensorPlan, reference: str) -> TensorPlan:
    values = tuple(
        values | {"weight": 0.0} if source.model.reference == reference and "weight" in values else values
        for source, values in zip(tensor.sources, tensor.settings.per_input, strict=True)
    )
    return replace(tensor, settings=replace(tensor.settings, per_input=values)) if not tensor.copy else tensor


def _ask(merge: LiveMerge, plan: Plan, objectives: Sequence[Objective]) -> AllAnswers:
    merge.become(plan)
    assert merge.backend
    return tuple(objective.ask(merge.backend, range(objective.units)) for objective in objectives)


def _values(objectives: Sequence[Objective], answers: AllAnswers) -> tuple[float, ...]:
    return tuple(value(objective, found_answers) for objective, found_answers in zip(objectives, answers, strict=True))


def _chances(whole_answers: AllAnswers, without_answers: AllAnswers) -> tuple[float, ...]:
    random = np.random.default_rng(0)
    return tuple(
        bootstrap_p(drawn_differences(a, b, random), len(a))
        for a, b in zip(whole_answers, without_answers, strict=True)
    )


def _shown(objectives: Sequence[Objective], answers: AllAnswers) -> str:
    values = _values(objectives, answers)
    return ", ".join(
        f"{objective.name} {found_answers:.4g}" for objective, found_answers in zip(objectives, values, strict=True)
    )
