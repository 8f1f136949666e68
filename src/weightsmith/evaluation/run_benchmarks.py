"""Models on suites of benchmarks: tasks by lm-evaluation-harness, answers by our backends, comparisons in pairs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from weightsmith.engine.in_memory import compute_tensors
from weightsmith.engine.output.run_digest import run_digest
from weightsmith.errors import EvaluationError
from weightsmith.evaluation.answer_store import AnswerStore, content_key
from weightsmith.evaluation.backend import Backend
from weightsmith.evaluation.backends.open_backend import check_tokenizer, open_backend, runs_in_llama_cpp
from weightsmith.evaluation.backends.transformers.live_model import fill_model
from weightsmith.evaluation.backends.transformers.transformers_backend import PRECISIONS, TransformersBackend
from weightsmith.evaluation.backends.transformers.unwritten_model import UnwrittenModel
from weightsmith.evaluation.budget import Budget, choose_samples
from weightsmith.evaluation.harness.suite_tasks import SuiteTasks, load_tasks
from weightsmith.evaluation.harness.values import read_value
from weightsmith.evaluation.results import Benchmark, ModelResult
from weightsmith.evaluation.settings import BenchmarkSettings
from weightsmith.evaluation.tasks.suite import load_suite, suite_of_tasks
from weightsmith.files.digests import FileDigests, digest
from weightsmith.machine import available_cores, fast_precision
from weightsmith.models.model import Model
from weightsmith.models.open_model import open_model
from weightsmith.planning.make_plan import make_plan
from weightsmith.recipe.recipe import load_recipe

Log = Callable[[str], None]


STORE, DIGESTS = "answers.sqlite", ".digests.json"


def run_benchmarks(
    models: Mapping[str, str],
    out: Path,
    *,
    suites: Sequence[str] = (),
    tasks: Sequence[str] = (),
    base: str | None = None,
    parents: Sequence[str] | None = None,
    settings: BenchmarkSettings | None = None,
    log: Log = lambda text: None,
    on_progress: Callable[[str, int, int], None] = lambda label, done, total: None,
) -> list[Benchmark]:
    """Every model (label -> reference, or a merge recipe, which is merged in memory) on every suite, and on `tasks`
    named one by one.

    `base`: a label, by default the first; `parents`: by default those between the first and the last. Answers are kept
    in `out`/answers.sqlite as they come, and are not asked for again. `on_progress` gets requests. Raises
    WeightsmithError before the first model is loaded for everything that can be known then.
    """
    settings = settings or BenchmarkSettings()
    suites_to_run = [load_suite(name) for name in suites] + ([suite_of_tasks(tasks)] if tasks else [])
    if not suites_to_run:
        raise EvaluationError("nothing to evaluate: give a suite or tasks")
    base, parents = _roles(list(models), base, parents)
    opened = {label: _open(reference, settings) for label, reference in models.items()}
    log("loading tasks")
    loaded = [
        load_tasks(suite, data=settings.data, fewshot=settings.fewshot, include=settings.include)
        for suite in suites_to_run
    ]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvaluationError(f"{out}: cannot be created: {error.strerror}") from error
    store, digests = AnswerStore(out / STORE), FileDigests(out / DIGESTS)
    session = _Session(settings, store, {} if len(models) > 1 else None, on_progress)
    results: list[list[ModelResult]] = [[] for _ in suites_to_run]
    chosen: list[dict[str, list[int]] | None] = [None] * len(suites_to_run)
    for position, (label, reference) in enumerate(models.items()):
        with _loaded(label, reference, opened[label], settings, digests, log) as model:
            if settings.budget and position == 0:
                budget = Budget(settings.budget, len(models))
                chosen = choose_samples(loaded, model.backend, budget, settings, log)
            for number, suite_tasks in enumerate(loaded):
                result = _ask(session, model, suite_tasks, chosen[number])
                average = result.average(suite_tasks.suite)
                line = f"{label}: {suite_tasks.suite.name}" + ("" if average is None else f" {average:.2f}")
                truncated = sum(result.truncated.values())
                log(
                    f"{line}; {result.computed} requests answered, {result.reused} reused, in {result.seconds:.0f} s"
                    + (
                        f"; {truncated} were longer than the context window and were cut at the beginning"
                        if truncated
                        else ""
                    )
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
            raise EvaluationError(f"{label!r} is not one of the models; they are {', '.join(labels)}")
    base = base or (labels[0] if len(labels) > 1 else None)
    parent_labels = list(parents) if parents is not None else [label for label in labels[1:-1] if label != base]
    return base, parent_labels


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


@dataclass(frozen=True)
class _LoadedModel:
    """`key`: names the content of the weights and what they are computed in."""

    label: str
    reference: str
    backend: Backend
    key: str


@dataclass(frozen=True)
class _Session:
    """What all models of a benchmark share."""

    settings: BenchmarkSettings
    store: AnswerStore
    token_cache: dict[str, np.ndarray] | None
    on_progress: Callable[[str, int, int], None]


@contextmanager
def _loaded(
    label: str, reference: str, model: Model | Path, settings: BenchmarkSettings, digests: FileDigests, log: Log
) -> Iterator[_LoadedModel]:
    threads = settings.threads or available_cores()
    torch.set_num_threads(threads)
    precision = settings.precision if settings.precision != "auto" else fast_precision()
    if isinstance(model, Path):
        plan = make_plan(load_recipe(model))
        log(f"{label}: merging in memory ({plan.method.name} of {len(plan.models)} models)")
        for warning in plan.warnings:
            log(f"{label}: warning: {warning}")
        with UnwrittenModel(plan, str(model)) as described_model:
            weights = compute_tensors(plan.tensors, plan.method, threads=threads)
            filled = fill_model(str(model), plan.config, weights, PRECISIONS[precision])
            backend = TransformersBackend(described_model, memory=settings.memory, log=log, live_model=filled)
            yield _LoadedModel(label, reference, backend, digest([run_digest(plan, 0, 0, "cpu"), precision]))
        return
    key = content_key(model, "llama.cpp" if runs_in_llama_cpp(model) else precision, digests)
    backend = open_backend(model, precision=precision, memory=settings.memory, threads=threads, log=log)
    yield _LoadedModel(label, reference, backend, key)


def _ask(
    session: _Session, model: _LoadedModel, tasks: SuiteTasks, samples: dict[str, list[int]] | None
) -> ModelResult:
    from weightsmith.evaluation.harness.harness_model import HarnessModel
    from weightsmith.evaluation.harness.harness_run import run_harness

    settings, backend = session.settings, model.backend
    if settings.chat and not backend.tokens.template:
        raise EvaluationError(f"{model.reference}: has no chat template; evaluate without --chat")
    started = time.monotonic()
    harness_model = HarnessModel(
        backend,
        store=session.store,
        key=model.key,
        versions=tasks.versions,
        token_cache=session.token_cache,
        max_length=settings.max_length,
        seed=settings.seed,
        on_progress=lambda done, total: session.on_progress(model.label, done, total),
    )
    harness = run_harness(
        harness_model,
        tasks,
        samples=samples,
        limit=settings.limit,
        seed=settings.seed,
        chat=settings.chat,
        system=settings.system,
        multiturn=settings.multiturn,
    )
    values = {entry: read_value(entry, tasks, harness) for entry in tasks.suite.entries}
    return ModelResult(
        model.label,
        model.reference,
        backend.name,
        backend.precision,
        values,
        harness,
        dict(harness_model.truncated),
        harness_model.computed,
        harness_model.reused,
        time.monotonic() - started,
    )
