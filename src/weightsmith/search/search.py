"""`weightsmith search`: candidates are asked for, tried and told about until trials or time are used up; then the best is held against
what the search has not seen."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from weightsmith.architecture import open_model
from weightsmith.architecture.layer_numbers import count_layers
from weightsmith.errors import OutputError, SearchError
from weightsmith.evaluate.benchmark import fast_precision
from weightsmith.methods.registry import METHODS
from weightsmith.recipe.yaml_file import YamlFile, nearest, parse_yaml, read_yaml
from weightsmith.search.candidate_recipe import candidate, matters, recipe_text
from weightsmith.search.default_recipes import default_recipes
from weightsmith.search.evolve import is_evolve, search_tree
from weightsmith.search.final_scores import FinalScores, final_scores
from weightsmith.search.objectives import Objective, beside, value
from weightsmith.search.results import discard, write_results
from weightsmith.search.schema import SearchFile
from weightsmith.search.space import Keys, Space, find_spaces
from weightsmith.search.study import DATABASE, Asked, Lock, Study
from weightsmith.search.trial import Trial
from weightsmith.search.trial_run import Setup, TrialOrder, TrialResult, bench_of, objectives_of
from weightsmith.search.workers import Workers, open_workers, result_of

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
DEFAULT_TRIALS = 60
_FAILURES = 10  # at the beginning, and nothing else: then the search stops
_TICK = 0.5  # seconds


@dataclass(frozen=True)
class SearchSummary:
    """`best` of `trials`, and how it does on what was held out; `files` that were written."""

    out: Path
    trials: tuple[Trial, ...]
    best: Trial
    objectives: tuple[Objective, ...]
    final: FinalScores
    files: tuple[Path, ...]
    seconds: float


def search(
    search_file: Path | str, out: Path | str, *, workers: int = 1, ray: str | None = None, threads: int | None = None,
    precision: str = "auto", trials: int | None = None, resume: bool = False, force: bool = False,
    say: Say = lambda text: None, progress: Progress = lambda label, done, total: None,
) -> SearchSummary:  # fmt: skip
    """Find the best values for the spaces in `search_file` (see `schema.SearchFile`), and write them, with the evidence, into the folder
    `out`. `resume` goes on with a search that is there, `force` discards it; `trials` takes the place of the file's. `workers`
    candidates are tried at once, each with `threads` threads, in processes of their own or, with `ray`, on a cluster. Raises
    WeightsmithError; for everything that can be known then, before the first candidate is merged."""
    started = time.monotonic()
    file = _read(Path(search_file))
    wish = file.validate(SearchFile)
    wish = wish.model_copy(update={"trials": trials}) if trials else wish
    recipe = file.part("recipe")
    spaces = find_spaces(recipe)
    if not spaces:
        raise file.error(
            ["recipe"], "nothing to search for: no value of the recipe is a space; `merge` takes it as it is"
        )
    methods = _methods(recipe, spaces)
    _check_files(file, wish)
    count = threads or max(1, len(os.sched_getaffinity(0)) // (1 if ray else workers))
    folder = _folder(Path(out), resume=resume, force=force)
    lock = Lock(folder)
    try:
        setup = Setup(
            file.path.absolute(), file.text, Path.cwd(), folder.absolute(), count,
            fast_precision() if precision == "auto" else precision, workers=workers,
        )  # fmt: skip
        _check_plans(setup, recipe, spaces, methods)
        objectives = _objectives(setup, candidate(recipe.tree, middle(spaces, methods[0]), spaces), say)
        defaults = default_recipes(spaces, recipe.tree, methods)
        made_of = {"precision": setup.precision} | _digests(file, wish)
        study = Study(folder, wish, recipe.tree, spaces, defaults, parallel=workers > 1, made_of=made_of)
        with open_workers(workers, ray, count) as pool:
            _try_all(study, wish, setup, pool, objectives, say, progress)
        best = study.best
        if best is None:
            raise SearchError(f"{folder}: no candidate came to a score; {_why(study.trials)}")
        say("scoring what was held out")
        final = final_scores(setup, objectives, study.trials, best, recipe.tree, say)
        files = write_results(folder, file, study, spaces, objectives, best, final, len(study.trials))
    finally:
        lock.release()
    return SearchSummary(
        folder, tuple(study.trials), best, tuple(objectives), final, tuple(files), time.monotonic() - started
    )


def _read(path: Path) -> YamlFile:
    """The file, in our form if it is mergekit-evolve's."""
    file = read_yaml(path)
    if not is_evolve(file):
        return file

    def layers(reference: str) -> int:
        return count_layers(open_model(reference, beside=path.parent).checkpoint.tensors)

    return parse_yaml(path, recipe_text(search_tree(file, layers)))


def _try_all(
    study: Study,
    wish: SearchFile,
    setup: Setup,
    pool: Workers,
    objectives: Sequence[Objective],
    say: Say,
    progress: Progress,
) -> None:
    """Until trials or time are used up. Raises SearchError where nothing but failures comes."""
    began, limit = time.monotonic(), wish.trials or (None if wish.seconds else DEFAULT_TRIALS)
    running: dict[Future[TrialResult], Asked] = {}
    exhausted = False
    while True:
        trials = study.trials
        if len(trials) >= _FAILURES and all(trial.state == "failed" for trial in trials):
            raise SearchError(f"the first {len(trials)} candidates all failed; {_why(trials)}")
        late = wish.seconds is not None and time.monotonic() - began >= wish.seconds
        room = pool.count - len(running)
        if limit is not None:
            room = min(room, limit - len(trials) - len(running))
        while room > 0 and not late and not exhausted:
            asked = study.ask()
            if asked is None:
                exhausted = True
                break
            running[pool.start(setup, _order(asked, study.best, wish))] = asked
            room -= 1
        if not running:
            return
        progress("tried", len(trials), limit or 0)
        finished, _ = wait(running, timeout=_TICK, return_when=FIRST_COMPLETED)
        for future in finished:
            asked = running.pop(future)
            trial = study.tell(asked, result_of(future), objectives)
            say(_line(trial, objectives, study.best))


def _order(asked: Asked, best: Trial | None, wish: SearchFile) -> TrialOrder:
    races = wish.prune and not wish.is_for_a_front  # there, who is behind in the sum may be ahead in one
    against = best.answers if races and best and asked.default is None else ()
    return TrialOrder(asked.tree, race=races, best=against)


def _line(trial: Trial, objectives: Sequence[Objective], best: Trial | None) -> str:
    name = f"{trial.number}: {trial.default}" if trial.default else f"{trial.number}:"
    if trial.state == "failed":
        return f"{name} failed: {trial.error}"
    shown = ", ".join(
        f"{one.name} {value(one, found):.4g}" for one, found in zip(objectives, trial.answers, strict=True) if found
    )
    end = " (behind, stopped)" if trial.state == "pruned" else " *" if best and best.number == trial.number else ""
    return f"{name} {shown}; merged in {trial.merge_seconds:.1f} s, asked in {trial.ask_seconds:.1f} s{end}"


def _methods(recipe: YamlFile, spaces: Sequence[Space]) -> list[str]:
    """The methods that are searched through. Raises RecipeError for one that is not known."""
    chosen = next((list(space.options) for space in spaces if space.keys == ("merge_method",)), None)
    methods = chosen or [str(recipe.tree.get("merge_method", ""))]
    for method in methods:
        if method not in METHODS:
            raise recipe.error(["merge_method"], f"unknown merge_method {method!r}{nearest(str(method), METHODS)}")
    return [str(method) for method in methods]


def _check_files(file: YamlFile, wish: SearchFile) -> None:
    for number, entry in enumerate(wish.objective):
        for key in ("questions", "perplexity"):
            path = getattr(entry, key)
            if path and not beside(file.path.parent, path).is_file():
                raise file.error(["objective", number, key], f"{path}: no such file")


def _digests(file: YamlFile, wish: SearchFile) -> dict[str, str]:
    """Of the files of questions and texts."""
    paths = [path for entry in wish.objective if (path := entry.questions or entry.perplexity)]
    return {path: xxhash.xxh3_128_hexdigest(beside(file.path.parent, path).read_bytes()) for path in paths}


def _folder(out: Path, *, resume: bool, force: bool) -> Path:
    there = (out / DATABASE).exists()
    if resume and not there:
        raise OutputError(f"{out}: there is no search to go on with")
    if there and not (resume or force):
        raise OutputError(f"{out}: holds a search already; go on with it by --resume, or discard it by --force")
    if out.exists() and not there and (not out.is_dir() or any(p.name != ".lock" for p in out.iterdir())) and not force:
        raise OutputError(f"{out}: exists and is no search's folder; choose another, or --force")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be created: {error.strerror}") from error
    if force and not resume:
        lock = Lock(out)
        discard(out)
        lock.release()
    return out


def _check_plans(setup: Setup, recipe: YamlFile, spaces: Sequence[Space], methods: Sequence[str]) -> None:
    """With every method, the recipe and its models have to fit together."""
    live = bench_of(setup).live
    for method in methods:
        live.plan(candidate(recipe.tree, middle(spaces, method), spaces))


def middle(spaces: Sequence[Space], method: str) -> dict[Keys, Any]:
    """A value in every space that matters to `method`."""
    found: dict[Keys, Any] = {}
    for space in spaces:
        if matters(method, space.parameter):
            number = (space.low + space.high) / 2
            number = int(space.low) if space.kind == "int" else number
            found[space.keys] = space.options[0] if space.kind == "choice" else number
    if ("merge_method",) in [space.keys for space in spaces]:
        found["merge_method",] = method
    return found


def _objectives(setup: Setup, tree: Mapping[str, Any], say: Say) -> list[Objective]:
    """Opened in this process, for their names, their sizes, and what is wrong with them, with a model of the recipe `tree`."""
    bench = bench_of(setup)
    if bench.live.backend is None:
        say("opening the models")
        bench.live.become(bench.live.plan(_reference_tree(tree)))
    found = objectives_of(bench)
    for objective, part in zip(found, bench.splits, strict=True):
        say(f"{objective.name}: {len(part.search)} to search with, {len(part.held_out)} held out")
    return found


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
