"""One candidate, merged and asked, in whatever process: this one, a worker, or a machine of a Ray cluster.

`run_trial` is a plain function of two values that can be pickled; what is costly (open models, the live model, loaded tasks) is kept in
the process that it runs in, for the next one.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weightsmith.errors import WeightsmithError
from weightsmith.evaluate.memory_plan import available_memory
from weightsmith.recipe.yaml_file import parse_yaml
from weightsmith.search.input_cache import InputCache
from weightsmith.search.live_merge import LiveMerge
from weightsmith.search.objectives import Answer, Objective, Split, is_finite, open_objectives, split
from weightsmith.search.race import behind, stages
from weightsmith.search.schema import SearchFile

_CACHE_SHARE = 0.4  # of the memory that is free, for inputs


@dataclass(frozen=True)
class Setup:
    """What every trial of a search has in common. `path` and `text` are the search file's; `here`: the working directory; `scratch`: a
    folder for what memory does not hold."""

    path: Path
    text: str
    here: Path
    scratch: Path
    threads: int
    precision: str
    memory: int | None = None
    workers: int = 1


@dataclass(frozen=True)
class TrialOrder:
    """`tree`: a recipe without spaces. `held_out`: ask what the search does not see; `everything`: all at once, no race. `best`: the
    answers that it is held against, one dict per objective."""

    tree: dict[str, Any]
    held_out: bool = False
    race: bool = True
    best: tuple[dict[int, Answer], ...] = ()


@dataclass(frozen=True)
class TrialResult:
    """`answers`: one dict per objective; `pruned`: it was behind, and not all was asked; `error`: why there are none; seconds of
    merging and of asking, `tensors` computed."""

    answers: tuple[dict[int, Answer], ...] = ()
    pruned: bool = False
    error: str = ""
    merge_seconds: float = 0.0
    ask_seconds: float = 0.0
    tensors: int = 0


@dataclass
class _Bench:
    setup: Setup
    search: SearchFile
    live: LiveMerge
    objectives: list[Objective] = field(default_factory=list)
    splits: list[Split] = field(default_factory=list)


_benches: dict[Setup, _Bench] = {}


def run_trial(setup: Setup, order: TrialOrder) -> TrialResult:
    """What goes wrong with one candidate is in `error`."""
    bench = bench_of(setup)
    started = time.perf_counter()
    try:
        merged = bench.live.become(bench.live.plan(order.tree))
        began = time.perf_counter()
        answers, pruned = _ask(bench, order)
    except WeightsmithError as error:
        return TrialResult(error=str(error), merge_seconds=time.perf_counter() - started)
    if not is_finite(answers):
        return TrialResult(
            error="its scores are not numbers (NaN)", merge_seconds=merged.seconds, tensors=merged.tensors
        )
    return TrialResult(tuple(answers), pruned, "", began - started, time.perf_counter() - began, merged.tensors)


def bench_of(setup: Setup) -> _Bench:
    """This process's own. Raises WeightsmithError for a file that is wrong."""
    if setup not in _benches:
        os.chdir(setup.here)
        for other in _benches.values():
            other.live.close()
        _benches.clear()
        search = parse_yaml(setup.path, setup.text).validate(SearchFile)
        budget = int(available_memory() * _CACHE_SHARE / setup.workers)
        live = LiveMerge(
            setup.path, threads=setup.threads, precision=setup.precision, cache=InputCache(setup.scratch, budget),
            memory=setup.memory,
        )  # fmt: skip
        _benches[setup] = _Bench(setup, search, live)
    return _benches[setup]


def objectives_of(bench: _Bench) -> list[Objective]:
    """Opened with the tokenizer of the live model, which must be there."""
    if not bench.objectives:
        assert bench.live.backend
        bench.objectives = open_objectives(bench.search, bench.setup.path.parent, bench.live.backend)
        bench.splits = [
            split(objective, bench.search.held_out, bench.search.seed, stream)
            for stream, objective in enumerate(bench.objectives)
        ]
    return bench.objectives


def _ask(bench: _Bench, order: TrialOrder) -> tuple[list[dict[int, Answer]], bool]:
    objectives = objectives_of(bench)
    assert bench.live.backend
    answers: list[dict[int, Answer]] = [{} for _ in objectives]
    parts = [part.held_out if order.held_out else part.search for part in bench.splits]
    ends = stages([len(part) for part in parts]) if order.race else [[len(part) for part in parts]]
    for last in ends:
        for objective, part, found, end in zip(objectives, parts, answers, last, strict=True):
            if wanted := part[len(found) : end]:
                found |= objective.ask(bench.live.backend, wanted)
        if last is not ends[-1] and order.best and behind(objectives, answers, order.best):
            return answers, True
        if not is_finite(answers):
            break
    return answers, False
