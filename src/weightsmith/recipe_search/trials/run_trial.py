"""One candidate, merged and asked, in whatever process: this one, a worker, or a machine of a Ray cluster.

`run_trial` is a plain function of two values that can be pickled; what is costly (open models, the live model, loaded
tasks) is kept in the process that it runs in, for the next one.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weightsmith.errors import WeightsmithError
from weightsmith.evaluation.task import Answer
from weightsmith.files.inputs.yaml_file import parse_yaml
from weightsmith.machine import available_memory
from weightsmith.recipe_search.objectives import Objective, Split, is_finite, open_objectives, split
from weightsmith.recipe_search.search_file import SearchFile
from weightsmith.recipe_search.trials.input_cache import InputCache
from weightsmith.recipe_search.trials.live_merge import LiveMerge
from weightsmith.recipe_search.trials.race import behind, stages

_CACHE_SHARE = 0.4  # of the memory that is free, for inputs


@dataclass(frozen=True)
class Setup:
    """What all trials of a search share. `path` and `text` are the search file's; `working_folder`: the
    working directory; `scratch`: a folder for what memory does not hold."""

    path: Path
    text: str
    working_folder: Path
    scratch: Path
    threads: int
    precision: str
    memory: int | None = None
    workers: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class TrialJob:
    """`tree`: a recipe without spaces. `held_out`: ask what the search does not see; `everything`: all at once, no
    race. `best`: the answers that it is compared with, one dict per objective."""

    tree: dict[str, Any]
    held_out: bool = False
    race: bool = True
    best: tuple[dict[int, Answer], ...] = ()


@dataclass(frozen=True)
class TrialResult:
    """`answers`: one dict per objective; `pruned`: it was behind, and not all was asked; `error`: why there are none;
    seconds of merging and of asking, `tensors` computed."""

    answers: tuple[dict[int, Answer], ...] = ()
    pruned: bool = False
    error: str = ""
    merge_seconds: float = 0.0
    ask_seconds: float = 0.0
    tensors: int = 0


@dataclass
class _Worker:
    setup: Setup
    search: SearchFile
    live: LiveMerge
    objectives: list[Objective] = field(default_factory=list)
    splits: list[Split] = field(default_factory=list)


_workers: dict[Setup, _Worker] = {}


def run_trial(setup: Setup, job: TrialJob) -> TrialResult:
    """An error of one candidate is in `error`."""
    worker = worker_of(setup)
    started = time.perf_counter()
    try:
        merged = worker.live.become(worker.live.plan(job.tree))
        began = time.perf_counter()
        answers, pruned = _ask(worker, job)
    except WeightsmithError as error:
        return TrialResult(error=str(error), merge_seconds=time.perf_counter() - started)
    if not is_finite(answers):
        return TrialResult(
            error="its scores are not numbers (NaN)", merge_seconds=merged.seconds, tensors=merged.tensors
        )
    return TrialResult(tuple(answers), pruned, "", began - started, time.perf_counter() - began, merged.tensors)


def worker_of(setup: Setup) -> _Worker:
    """This process's own. Raises WeightsmithError for a file that is wrong."""
    if setup not in _workers:
        os.chdir(setup.working_folder)
        for other in _workers.values():
            other.live.close()
        _workers.clear()
        search = parse_yaml(setup.path, setup.text).validate(SearchFile)
        budget = int(available_memory() * _CACHE_SHARE / setup.workers)
        live = LiveMerge(
            setup.path,
            threads=setup.threads,
            precision=setup.precision,
            cache=InputCache(setup.scratch, budget),
            memory=setup.memory,
            device=setup.device,
            workers=setup.workers,
        )
        _workers[setup] = _Worker(setup, search, live)
    return _workers[setup]


def objectives_of(worker: _Worker) -> list[Objective]:
    """Opened with the tokenizer of the live model, which must be there."""
    if not worker.objectives:
        assert worker.live.backend
        worker.objectives = open_objectives(worker.search, worker.setup.path.parent, worker.live.backend)
        worker.splits = [
            split(objective, worker.search.held_out, worker.search.seed, stream)
            for stream, objective in enumerate(worker.objectives)
        ]
    return worker.objectives


def _ask(worker: _Worker, job: TrialJob) -> tuple[list[dict[int, Answer]], bool]:
    objectives = objectives_of(worker)
    assert worker.live.backend
    answers: list[dict[int, Answer]] = [{} for _ in objectives]
    parts = [part.held_out if job.held_out else part.search for part in worker.splits]
    ends = stages([len(part) for part in parts]) if job.race else [[len(part) for part in parts]]
    for last in ends:
        for objective, part, objective_answers, end in zip(objectives, parts, answers, last, strict=True):
            if numbers := part[len(objective_answers) : end]:
                objective_answers |= objective.ask(worker.live.backend, numbers)
        if last is not ends[-1] and job.best and behind(objectives, answers, job.best):
            return answers, True
        if not is_finite(answers):
            break
    return answers, False
