"""Models on suites of benchmarks: tasks by lm-evaluation-harness, answers by our backends, comparisons in pairs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from weightsmith.architecture import Model, open_model
from weightsmith.checkpoint.file_digests import FileDigests, digest
from weightsmith.engine.in_memory import compute_tensors
from weightsmith.engine.run_digest import run_digest
from weightsmith.errors import EvaluationError
from weightsmith.evaluate.backend import Backend
from weightsmith.evaluate.benchmark_result import Benchmark, ModelResult
from weightsmith.evaluate.benchmark_settings import BenchmarkSettings
from weightsmith.evaluate.budget import Budget, choose_samples
from weightsmith.evaluate.candidate import Candidate
from weightsmith.evaluate.content_key import content_key
from weightsmith.evaluate.live_model import filled_model
from weightsmith.evaluate.open_backend import check_tokenizer, open_backend, runs_in_llama_cpp
from weightsmith.evaluate.request_store import RequestStore
from weightsmith.evaluate.suite import load_suite, suite_of_tasks
from weightsmith.evaluate.suite_tasks import SuiteTasks, load_tasks
from weightsmith.evaluate.transformers_backend import PRECISIONS, TransformersBackend
from weightsmith.evaluate.values import read_value
from weightsmith.recipe.load import load_recipe
from weightsmith.recipe.plan import make_plan

Say = Callable[[str], None]
STORE, DIGESTS = "answers.sqlite", ".digests.json"


def run_benchmarks(
    models: Mapping[str, str], out: Path, *, suites: Sequence[str] = (), tasks: Sequence[str] = (),
    base: str | None = None, parents: Sequence[str] | None = None, settings: BenchmarkSettings | None = None, say: Say = lambda text: None,
    progress: Callable[[str, int, int], None] = lambda label, done, total: None,
) -> list[Benchmark]:  # fmt: skip
    """Every model (label -> reference, or a merge recipe, which is merged in memory) on every suite, and on `tasks` named one by one.

    `base`: a label, by default the first; `parents`: by default those between the first and the last. Answers are kept in
    `out`/answers.sqlite as they come, and are not asked for again. `progress` is told of requests. Raises WeightsmithError
    before the first model is loaded for everything that can be known then.
    """
    settings = settings or BenchmarkSettings()
    wanted = [load_suite(name) for name in suites] + ([suite_of_tasks(tasks)] if tasks else [])
    if not wanted:
        raise EvaluationError("nothing to evaluate: give a suite or tasks")
    base, parents = _roles(list(models), base, parents)
    opened = {label: _open(reference, settings) for label, reference in models.items()}
    say("loading tasks")
    loaded = [
        load_tasks(suite, data=settings.data, fewshot=settings.fewshot, include=settings.include) for suite in wanted
    ]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvaluationError(f"{out}: cannot be created: {error.strerror}") from error
    store, digests = RequestStore(out / STORE), FileDigests(out / DIGESTS)
    token_cache: dict[str, np.ndarray] | None = {} if len(models) > 1 else None
    results: list[list[ModelResult]] = [[] for _ in wanted]
    chosen: list[dict[str, list[int]] | None] = [None] * len(wanted)
    for position, (label, reference) in enumerate(models.items()):
        with _loaded(label, opened[label], settings, digests, say) as (backend, key):
            if settings.budget and position == 0:
                budget = Budget(settings.budget, len(models))
                chosen = choose_samples(loaded, backend, budget, settings, say)
            for number, suite_tasks in enumerate(loaded):
                result = _ask(
                    label, reference, backend, key, suite_tasks, chosen[number], settings, store, token_cache, progress
                )
                average = result.average(suite_tasks.suite)
                told = f"{label}: {suite_tasks.suite.name}" + ("" if average is None else f" {average:.2f}")
                cut = sum(result.truncated.values())
                say(
                    f"{told}; {result.computed} requests answered, {result.reused} known, in {result.seconds:.0f} s"
                    + (f"; {cut} were longer than the window and lost their beginning" if cut else "")
                )
                results[number].append(result)
    store.close()
    return [
        Benchmark(tasks.suite, settings, tuple(results[k]), base, tuple(parents), _questions(tasks, results[k][0]))
        for k, tasks in enumerate(loaded)
    ]


def _roles(labels: list[str], base: str | None, parents: Sequence[str] | None) -> tuple[str | None, list[str]]:
    for label in (*([base] if base else []), *(parents or ())):
        if label not in labels:
            raise EvaluationError(f"{label!r} is none of the models; they are {', '.join(labels)}")
    base = base or (labels[0] if len(labels) > 1 else None)
    found = list(parents) if parents is not None else [label for label in labels[1:-1] if label != base]
    return base, found


def _questions(tasks: SuiteTasks, result: ModelResult) -> dict[str, tuple[int, int]]:
    sizes = result.harness["n-samples"]
    return {name: (sizes[name]["effective"], sizes[name]["original"]) for name in tasks.tasks}


def _open(reference: str, settings: BenchmarkSettings) -> Model | Path:
    path = Path(reference)
    if path.suffix in (".yml", ".yaml") and path.is_file():
        make_plan(load_recipe(path))  # what is wrong with it is said now
        return path
    model = open_model(reference)
    check_tokenizer(model, chat=settings.chat)
    return model


@contextmanager
def _loaded(
    label: str, model: Model | Path, settings: BenchmarkSettings, digests: FileDigests, say: Say
) -> Iterator[tuple[Backend, str]]:
    threads = settings.threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    precision = settings.precision if settings.precision != "auto" else fast_precision()
    if isinstance(model, Path):
        plan = make_plan(load_recipe(model))
        say(f"{label}: merging in memory ({plan.method.name} of {len(plan.models)} models)")
        with Candidate(plan, str(model)) as described:
            weights = compute_tensors(plan.tensors, plan.method, threads=threads)
            live = filled_model(str(model), plan.config, weights, PRECISIONS[precision])
            backend = TransformersBackend(described, memory=settings.memory, say=say, live=live)
            yield backend, digest([run_digest(plan, 0, 0, "cpu"), precision])
        return
    key = content_key(model, "llama.cpp" if runs_in_llama_cpp(model) else precision, digests)
    yield open_backend(model, precision=precision, memory=settings.memory, threads=threads, say=say), key


def fast_precision() -> str:
    """bfloat16 where the processor multiplies it, float32 elsewhere (where it would be converted for each product)."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            flags = next(line for line in lines if line.startswith(("flags", "Features"))).split()
    except (OSError, StopIteration):
        return "float32"
    return "bfloat16" if {"amx_bf16", "avx512_bf16", "bf16"} & set(flags) else "float32"


def _ask(
    label: str, reference: str, backend: Backend, key: str, tasks: SuiteTasks, samples: dict[str, list[int]] | None,
    settings: BenchmarkSettings, store: RequestStore, token_cache: dict[str, np.ndarray] | None,
    progress: Callable[[str, int, int], None],
) -> ModelResult:  # fmt: skip
    from weightsmith.evaluate.harness_model import HarnessModel
    from weightsmith.evaluate.harness_run import run_harness

    if settings.chat and not backend.tokens.template:
        raise EvaluationError(f"{reference}: has no chat template; evaluate without --chat")
    started = time.monotonic()
    model = HarnessModel(
        backend, store=store, key=key, versions=tasks.versions, token_cache=token_cache, max_length=settings.max_length,
        seed=settings.seed, progress=lambda done, total: progress(label, done, total),
    )  # fmt: skip
    harness = run_harness(
        model, tasks, samples=samples, limit=settings.limit, seed=settings.seed, chat=settings.chat, system=settings.system,
        multiturn=settings.multiturn,
    )  # fmt: skip
    values = {entry: read_value(entry, tasks, harness) for entry in tasks.suite.entries}
    return ModelResult(
        label, reference, backend.name, backend.precision, values, harness, dict(model.truncated), model.computed,
        model.reused, time.monotonic() - started,
    )  # fmt: skip
