"""The corpus of bad inputs, class by class: one message that names the file and exit 2, in little time and memory, with
nothing left and no input changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.hostile.corpus.checkpoints import (
    bad_adapters,
    bad_configs,
    bad_gguf,
    bad_pickles,
    bad_safetensors,
    bad_tokenizers,
)
from tests.hostile.corpus.files import bad_outputs, bad_pipelines, bad_recipes, bad_searches, bad_stores
from tests.hostile.fork import Case, run_case
from tests.warm_process import use_warm_modules, warm_process, warm_up

CLASSES: dict[str, Callable[[], Iterator[Case]]] = {
    "safetensors": bad_safetensors.cases,
    "index": bad_safetensors.index_cases,
    "pickle": bad_pickles.cases,
    "gguf": bad_gguf.cases,
    "adapter": bad_adapters.cases,
    "config": bad_configs.cases,
    "tokenizer": bad_tokenizers.cases,
    "recipe": bad_recipes.cases,
    "mapping": bad_searches.mapping_cases,
    "pipeline": bad_pipelines.cases,
    "search": bad_searches.search_cases,
    "store": bad_stores.cases,
    "output": bad_outputs.cases,
}
_LEAST = 1500
_DAILY = 3  # of so many cases one is run every time


@pytest.fixture(scope="module")
def forking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessPoolExecutor]:
    """A process that holds what every fork needs, and nothing that other tests left: then a fork takes no time."""
    folder, module = tmp_path_factory.mktemp("warm"), warm_process().module_command("")[0]
    with ProcessPoolExecutor(1, get_context("spawn"), _prepare, (folder, module)) as pool:
        yield pool


def _prepare(folder: Path, module: str) -> None:
    import torch

    torch.set_num_threads(1)  # a fork has none of its parent's threads
    warm_up(folder)
    use_warm_modules(lambda name: [module, name])


def _failures(kind: str, step: int, folder: Path) -> list[str]:
    """Of every `step`th case, those that are not refused as they should be; last, how many were tried."""
    failures, number = [], -1
    for number, case in enumerate(islice(CLASSES[kind](), 0, None, step)):
        outcome = run_case(case, folder / f"{number:04}")
        if outcome.problems:
            last = (outcome.said.strip().splitlines() or ["nothing"])[-1]
            failures.append(f"{case.name}: {'; '.join(outcome.problems)}: {last[:200]}")
    return [*failures, f"of {number + 1}"]


def test_there_are_enough_cases() -> None:
    names = [f"{kind}: {case.name}" for kind, cases in CLASSES.items() for case in cases()]
    assert len(names) == len(set(names))
    assert len(names) // _DAILY >= _LEAST


@pytest.mark.parametrize("kind", CLASSES)
def test_bad_inputs_are_refused(
    kind: str, forking: ProcessPoolExecutor, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Every third one; all of them with --all."""
    step = 1 if request.config.getoption("--all") else _DAILY
    *failures, tried = forking.submit(_failures, kind, step, tmp_path).result()
    assert not failures, f"{len(failures)} {tried}:\n" + "\n".join(failures)
