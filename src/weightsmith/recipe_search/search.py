"""`weightsmith search`: candidates are drawn, tried and reported back until trials or time run out; then the
best is compared with the others on held-out questions."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from weightsmith.engine.output.run_digest import inputs_digest
from weightsmith.errors import OutputError, SearchError, WeightsmithError
from weightsmith.evaluation.backends.precision_on import precision_on
from weightsmith.evaluation.results.evaluation import Evaluation
from weightsmith.files.digests import file_digest
from weightsmith.files.find_path import is_file, path_beside
from weightsmith.files.inputs.yaml_file import YamlFile, dump_yaml, parse_yaml, read_yaml
from weightsmith.files.output_folder import check_apart, check_place
from weightsmith.files.suggestions import nearest
from weightsmith.files.work_folder import entries_of, work_folder
from weightsmith.machine import available_cores, fast_precision, usable_device
from weightsmith.methods.registry import METHODS, find_method, method_names
from weightsmith.model_card.public_recipe import public_recipe
from weightsmith.models.model import Model
from weightsmith.models.open_model import open_model
from weightsmith.models.parts.stacks import find_stacks
from weightsmith.progress import OnProgress, Progress, no_progress
from weightsmith.recipe_search.candidate_recipe import candidate, matters, portable_recipe
from weightsmith.recipe_search.default_recipes import default_recipes
from weightsmith.recipe_search.mergekit_evolve import is_evolve, search_tree
from weightsmith.recipe_search.objectives import Objective, value
from weightsmith.recipe_search.report.final_scores import FinalScores, final_scores, models_of
from weightsmith.recipe_search.report.search_report import SearchFacts
from weightsmith.recipe_search.report.search_results import discard, write_results
from weightsmith.recipe_search.search_file import SearchFile
from weightsmith.recipe_search.space import Keys, Space, find_spaces
from weightsmith.recipe_search.trials.run_trial import Setup, TrialJob, TrialResult, objectives_of, worker_of
from weightsmith.recipe_search.trials.study import DATABASE, AskedTrial, Study
from weightsmith.recipe_search.trials.trial import Trial
from weightsmith.recipe_search.trials.workers import Workers, open_workers, result_of
from weightsmith.resident_memory import watched_memory

Log = Callable[[str], None]
DEFAULT_TRIALS = 60
_FAILURES = 10  # at the beginning, and nothing else: then the search stops
_TICK = 0.5  # seconds
_MOST_POINTS = 1_000_000  # of a grid


@dataclass(frozen=True)
class SearchSummary:
    """`best` of `trials`, and how it does on what was held out: by the score that was searched for (`final`), and by
    each objective (`held_out`); `files` that were written."""

    out: Path
    trials: tuple[Trial, ...]
    best: Trial
    objectives: tuple[Objective, ...]
    final: FinalScores
    files: tuple[Path, ...]
    seconds: float

    @cached_property
    def held_out(self) -> Evaluation:
        """The winner first, then the default recipes, the base and the fine-tunes, each compared with the winner."""
        return self.final.held_out(self.objectives)


def search(
    search_file: Path | str,
    out: Path | str,
    *,
    workers: int = 1,
    ray: str | None = None,
    threads: int | None = None,
    precision: str = "auto",
    device: str = "cpu",
    trials: int | None = None,
    resume: bool = False,
    force: bool = False,
    log: Log = lambda text: None,
    on_progress: OnProgress = no_progress,
) -> SearchSummary:
    """Find the best values for the spaces in `search_file` (see `SearchFile`), and write them, with the
    evidence, into the folder `out`. `resume` resumes a search that is there, `force` discards it; `trials` takes
    the place of the file's. `workers` candidates are tried at once, each with `threads` threads, in processes of their
    own or, with `ray`, on a cluster; `device`: where they are merged and asked, `cpu`, another that torch knows, or
    `auto`. Raises WeightsmithError; for everything that can be known then, before the first
    candidate is merged.

    >>> summary = ws.search("search.yml", "found", trials=3)
    >>> ws.merge(summary.best.recipe, "best").method
    'task_arithmetic'
    """
    started = time.monotonic()
    device = usable_device(device)
    file = _read(Path(search_file))
    config = file.validate(SearchFile)
    config = config.model_copy(update={"trials": trials}) if trials else config
    recipe = file.part("recipe")
    spaces = find_spaces(recipe)
    if not spaces:
        raise file.error(
            ["recipe"], "nothing to search for: no value of the recipe is a space; use `weightsmith merge`"
        )
    points = math.prod(space.grid_size for space in spaces)
    if config.sampler == "grid" and points > _MOST_POINTS:
        raise file.error(["sampler"], f"a grid of {points:,} points; at most {_MOST_POINTS:,}: give steps, or use tpe")
    methods = _methods(recipe, spaces)
    _check_files(file, config)
    count = threads or max(1, available_cores() // (1 if ray else workers))
    check_apart(Path(out), [file.path], replaced=False)
    check_place(Path(out))
    folder = _folder(Path(out), resume=resume, force=force)
    with work_folder(folder, is_worth_keeping=(folder / DATABASE).exists), watched_memory() as peak:
        setup = Setup(
            file.path.absolute(),
            file.text,
            Path.cwd(),
            folder.absolute(),
            count,
            fast_precision(device) if precision == "auto" else precision,
            workers=workers,
            device=device,
        )
        _check_plans(setup, recipe, spaces, methods)
        models = _models(recipe, file.path.parent)
        check_apart(folder, [path for model in models for path in model.files], replaced=False)
        objectives = _objectives(setup, candidate(recipe.tree, middle(spaces, methods[0]), spaces), log)
        defaults = default_recipes(spaces, recipe.tree, methods)
        models_digest = inputs_digest(models)
        depends_on = {"precision": precision_on(setup.precision, device), "models": models_digest}
        depends_on |= _digests(file, config)
        depends_on |= {f"merge_method {name}": METHODS[name].identity for name in methods if METHODS[name].identity}
        if force and not resume:
            discard(folder)
        study = Study(folder, config, recipe.tree, spaces, defaults, parallel=workers > 1, depends_on=depends_on)
        with open_workers(workers, ray, count) as pool:
            _try_all(study, config, setup, pool, objectives, log, on_progress)
        best = study.best
        if best is None:
            raise SearchError(f"{folder}: no candidate was scored; {_why(study.trials)}", path=folder)
        plan = worker_of(setup).live.plan(best.tree)
        for warning in plan.warnings:
            log(f"warning: the winner: {warning}")
        log("scoring the held-out part")
        final = final_scores(setup, objectives, study.trials, best, recipe.tree, models_digest, log)
        facts = SearchFacts(file.path.name, public_recipe(plan.recipe, plan.models), peak.bytes)
        files = write_results(folder, file, study, spaces, objectives, best, final, facts)
    found_trials = tuple(_portable(trial, file.path.parent) for trial in study.trials)
    return SearchSummary(
        folder,
        found_trials,
        _portable(best, file.path.parent),
        tuple(objectives),
        final,
        tuple(files),
        time.monotonic() - started,
    )


def _portable(trial: Trial, folder: Path) -> Trial:
    """With models that are found from the working directory, not from the search file's folder."""
    return replace(trial, tree=portable_recipe(trial.tree, folder))


def _read(path: Path) -> YamlFile:
    """The file, in our form if it is mergekit-evolve's."""
    file = read_yaml(path)
    if not is_evolve(file):
        return file

    def layers(reference: str) -> int:
        model = open_model(reference, beside=path.parent)
        return find_stacks(model.checkpoint.tensors, model.config).depth

    return parse_yaml(path, dump_yaml(search_tree(file, layers)))


def _try_all(
    study: Study,
    config: SearchFile,
    setup: Setup,
    pool: Workers,
    objectives: Sequence[Objective],
    log: Log,
    on_progress: OnProgress,
) -> None:
    """Run trials until their number or the time is used up. Raises SearchError where nothing but failures comes."""
    began, limit = time.monotonic(), config.trials or (None if config.seconds else DEFAULT_TRIALS)
    running: dict[Future[TrialResult], AskedTrial] = {}
    exhausted = False
    while True:
        trials = study.trials
        if len(trials) >= _FAILURES and all(trial.state == "failed" for trial in trials):
            raise SearchError(f"the first {len(trials)} candidates all failed; {_why(trials)}")
        late = config.seconds is not None and time.monotonic() - began >= config.seconds
        room = pool.count - len(running)
        if limit is not None:
            room = min(room, limit - len(trials) - len(running))
        while room > 0 and not late and not exhausted:
            trial_request = study.ask()
            if trial_request is None:
                exhausted = True
                break
            running[pool.start(setup, _order(trial_request, study.best, config))] = trial_request
            room -= 1
        if not running:
            return
        on_progress(Progress("searching", len(trials), limit or 0, "trials"))
        finished, _ = wait(running, timeout=_TICK, return_when=FIRST_COMPLETED)
        for future in finished:
            trial_request = running.pop(future)
            trial = study.tell(trial_request, result_of(future), objectives)
            log(_line(trial, objectives, study.best))


def _order(trial_request: AskedTrial, best: Trial | None, config: SearchFile) -> TrialJob:
    races = config.prune and not config.is_for_a_front  # there, who is behind in the sum may be ahead in one
    against = best.answers if races and best and trial_request.default is None else ()
    return TrialJob(trial_request.tree, race=races, best=against)


def _line(trial: Trial, objectives: Sequence[Objective], best: Trial | None) -> str:
    name = f"{trial.number}: {trial.default}" if trial.default else f"{trial.number}:"
    if trial.state == "failed":
        return f"{name} failed: {trial.error}"
    shown = ", ".join(
        f"{objective.name} {value(objective, answers):.4g}"
        for objective, answers in zip(objectives, trial.answers, strict=True)
        if answers
    )
    end = " (behind, stopped)" if trial.state == "pruned" else " *" if best and best.number == trial.number else ""
    return f"{name} {shown}; merged in {trial.merge_seconds:.1f} s, asked in {trial.ask_seconds:.1f} s{end}"


def _methods(recipe: YamlFile, spaces: Sequence[Space]) -> list[str]:
    """The methods that are searched through. Raises RecipeError for one that is not known."""
    chosen = next((list(space.options) for space in spaces if space.keys == ("merge_method",)), None)
    methods = chosen or [str(recipe.tree.get("merge_method", ""))]
    for method in methods:
        if find_method(str(method)) is None:
            raise recipe.error(
                ["merge_method"], f"unknown merge_method {method!r}{nearest(str(method), method_names())}"
            )
    return [str(method) for method in methods]


def _check_files(file: YamlFile, config: SearchFile) -> None:
    for number, entry in enumerate(config.objective):
        for key in ("questions", "perplexity"):
            path = getattr(entry, key)
            if path and not is_file(path_beside(path, file.path.parent)):
                raise file.error(["objective", number, key], f"{path}: no such file")


def _digests(file: YamlFile, config: SearchFile) -> dict[str, str]:
    """The digests of the files of questions and texts."""
    paths = [path for entry in config.objective if (path := entry.questions or entry.perplexity)]
    return {path: file_digest(path_beside(path, file.path.parent)) for path in paths}


def _models(recipe: YamlFile, folder: Path) -> list[Model]:
    """All models that the recipe names."""
    models = []
    for _, reference in models_of(recipe.tree):
        with contextlib.suppress(WeightsmithError):  # one of several models to choose from may be broken
            models.append(open_model(reference, beside=folder))
    return models


def _folder(out: Path, *, resume: bool, force: bool) -> Path:
    """Where the search is done. Raises OutputError where that is something else's place."""
    exists = (out / DATABASE).exists()
    if resume and not exists:
        raise OutputError(f"{out}: there is no search to resume", path=out)
    if exists and not (resume or force):
        raise OutputError(
            f"{out}: holds a search already; resume it with --resume, or discard it with --force", path=out
        )
    if out.exists() and not exists and (not out.is_dir() or entries_of(out)) and not force:
        raise OutputError(
            f"{out}: exists and is not the folder of a search; choose another, or replace it with --force", path=out
        )
    return out


def _check_plans(setup: Setup, recipe: YamlFile, spaces: Sequence[Space], methods: Sequence[str]) -> None:
    """Plan one candidate of every method: raises where the recipe and its models do not fit together."""
    live = worker_of(setup).live
    for method in methods:
        live.plan(candidate(recipe.tree, middle(spaces, method), spaces))


def middle(spaces: Sequence[Space], method: str) -> dict[Keys, Any]:
    """A value in every space that matters to `method`."""
    answers: dict[Keys, Any] = {}
    for space in spaces:
        if matters(method, space.parameter):
            number = (space.low + space.high) / 2
            number = int(space.low) if space.space_type == "int" else number
            answers[space.keys] = space.options[0] if space.space_type == "choice" else number
    if ("merge_method",) in [space.keys for space in spaces]:
        answers["merge_method",] = method
    return answers


def _objectives(setup: Setup, tree: Mapping[str, Any], log: Log) -> list[Objective]:
    """Opened in this process, for their names, their sizes, and what is wrong with them, with a model of the recipe
    `tree`."""
    worker = worker_of(setup)
    if worker.live.backend is None:
        log("opening the models")
        worker.live.become(worker.live.plan(_reference_tree(tree)))
    answers = objectives_of(worker)
    for objective, part in zip(answers, worker.splits, strict=True):
        log(f"{objective.name}: {len(part.search)} to search on, {len(part.held_out)} held out")
    return answers


def _reference_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The base model, or the first one, as it is."""
    first = tree.get("base_model")
    if first is None:
        entries = tree.get("models") or tree["slices"][0]["sources"]
        first = entries[0]["model"]
    return {"merge_method": "passthrough", "models": [{"model": first}]}


def _why(trials: Sequence[Trial]) -> str:
    reasons = [trial.error for trial in trials if trial.error]
    return f"the last said: {reasons[-1]}" if reasons else "none was tried"
