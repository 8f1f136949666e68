"""`weightsmith evaluate`: every model on every task, in one loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.errors import EvaluationError
from weightsmith.evaluation.answer_store import AnswerStore, holds_answers
from weightsmith.evaluation.backend import Backend
from weightsmith.evaluation.backends.stored_backend import StoredBackend
from weightsmith.evaluation.budget import Budget, choose_samples
from weightsmith.evaluation.open_suite import OpenSuite, OwnTask, entry_of, open_suite
from weightsmith.evaluation.opened_model import LoadedModel, OpenedModel, Source, open_models
from weightsmith.evaluation.results.evaluated_model import EvaluatedModel
from weightsmith.evaluation.results.evaluation import Evaluation
from weightsmith.evaluation.results.harness_form import harness_form, join_forms
from weightsmith.evaluation.results.suite_result import ModelResult, SuiteResult
from weightsmith.evaluation.results.task_result import TaskResult, result_of
from weightsmith.evaluation.settings import EvaluationSettings, Precision
from weightsmith.evaluation.tasks.question_task import Questions
from weightsmith.evaluation.tasks.suite import Suite, SuiteEntry, load_suite, suite_of
from weightsmith.evaluation.tasks.text_task import Text
from weightsmith.files.digests import FileDigests, digest
from weightsmith.files.output_folder import check_apart, check_place
from weightsmith.files.work_folder import work_folder
from weightsmith.machine import fast_precision, usable_devices
from weightsmith.models.find_model import short_name
from weightsmith.progress import OnProgress, counted, no_progress
from weightsmith.recipe.recipe import Recipe
from weightsmith.resident_memory import watched_memory
from weightsmith.units import parse_size, parse_time

Log = Callable[[str], None]
STORE, DIGESTS = "answers.sqlite", ".digests.json"


def evaluate(
    models: Sequence[Source] | Mapping[str, Source],
    output: Path | str | None = None,
    *,
    suites: Sequence[str] = (),
    tasks: Sequence[str | Questions | Text] = (),
    questions: Sequence[Path | str] = (),
    texts: Sequence[Path | str] = (),
    base: str | None = None,
    parents: Sequence[str] | None = None,
    limit: int | None = None,
    budget: str | float | None = None,
    fewshot: int | None = None,
    data: Path | str | None = None,
    include: Sequence[Path | str] = (),
    chat: bool = False,
    system: str | None = None,
    precision: Precision = "auto",
    memory: str | int | None = None,
    device: str = "cpu",
    threads: int | None = None,
    log: Log = lambda text: None,
    on_progress: OnProgress = no_progress,
) -> Evaluation:
    """Score models on suites of benchmarks, tasks of lm-evaluation-harness, question files and texts, and compare them
    in pairs.

    `models`: references or merge recipes, which are merged in memory, with or without labels. `suites`: names or YAML
    files; `tasks`: names of lm-evaluation-harness, `Questions` and `Text`; `questions` and `texts`: files, for short.
    `base`: a label, by default the first; `parents`: labels, by default those between the first and the last.
    `budget`: seconds, or a time such as "20m", for all models together; `memory`: bytes, or a size such as "8GB";
    `device`: where transformers computes, `cpu`, others that torch knows (`cuda:0,cuda:1` share what is asked), or
    `auto`, and llama.cpp where it is built for it; `limit`: the first so many questions of each task, windows of a
    text. With `output`, answers are kept in `output`/answers.sqlite as they come: an interrupted evaluation resumes,
    and what is added later costs only itself.
    `log` gets a line per event, `on_progress` a `Progress` in requests.

    Raises WeightsmithError, for everything that can be known then, before the first model is loaded.

    >>> result = ws.evaluate({"base": "base", "merged": "ties.yml"}, tasks=[ws.Questions("skill.jsonl")])
    >>> [comparison.on for comparison in result.compare("merged", "base")]
    ['skill']
    """
    named = _labelled(models)
    base, parents = _roles(list(named), base, parents)
    settings = EvaluationSettings(
        limit=limit,
        budget=parse_time(budget, "--budget") if isinstance(budget, str) else budget,
        fewshot=fewshot,
        data=Path(data) if data else None,
        include=tuple(map(Path, include)),
        chat=chat,
        system=system,
        precision=precision,
        memory=parse_size(memory, "--memory") if isinstance(memory, str) else memory,
        device=usable_devices(device),
        threads=threads,
    )
    own = {entry_of(task): task for task in [*map(Questions, questions), *map(Text, texts)]}
    own |= {entry_of(task): task for task in tasks if not isinstance(task, str)}
    names = [name for task in tasks if isinstance(task, str) and (name := task.strip())]
    entries = [*(SuiteEntry(task=name) for name in names), *own]
    chosen_suites = [*map(load_suite, suites), *([suite_of(entries)] if entries else [])]
    if not chosen_suites:
        raise EvaluationError("nothing to evaluate: give a suite, tasks, questions (JSONL) or a text")
    opened = open_models(named, settings)
    if output:
        read = [Path(path) for path in (*questions, *texts)]
        read += [path for model in opened for path in model.files]
        check_apart(Path(output), read, replaced=False)
        check_place(Path(output))
    log("loading tasks")
    return evaluate_suites(
        opened,
        Path(output) if output else None,
        [open_suite(suite, settings, own) for suite in chosen_suites],
        settings,
        base=base,
        parents=parents,
        log=log,
        on_progress=on_progress,
    )


def evaluate_suites(
    models: Sequence[OpenedModel],
    output: Path | None,
    suites: Sequence[OpenSuite],
    settings: EvaluationSettings,
    *,
    base: str | None,
    parents: Sequence[str],
    digests: FileDigests | None = None,
    log: Log = lambda text: None,
    on_progress: OnProgress = no_progress,
) -> Evaluation:
    """`evaluate` for models and suites that are open already. `settings.precision` auto: float32 where there is a
    question file or a text, because perplexities are compared to parts of a percent; else the processor's fast one.
    `digests`: of files that are known already, by default those that an earlier run noted in `output`."""
    if settings.precision == "auto":
        own = any(suite.own for suite in suites)
        settings = replace(settings, precision="float32" if own else fast_precision(settings.device))
    results: list[list[ModelResult]] = [[] for _ in suites]
    asked: list[EvaluatedModel] = []
    chosen: list[dict[str, list[int]] | None] = [None] * len(suites)
    with ExitStack() as stack:
        if output:
            path = output / STORE
            stack.enter_context(work_folder(output, is_worth_keeping=lambda: holds_answers(path)))
            digests = digests or FileDigests(output / DIGESTS)
        store = stack.enter_context(AnswerStore(output / STORE if output else None))
        session = _Session(settings, store, {} if len(models) > 1 else None, on_progress)
        for position, opened in enumerate(models):
            began = time.monotonic()
            with watched_memory() as peak, opened.load(settings, digests, log) as model:
                if settings.budget and position == 0:
                    chosen = choose_samples(suites, model.backend, Budget(settings.budget, len(models)), settings, log)
                for number, suite in enumerate(suites):
                    result = _ask(session, model, suite, chosen[number])
                    log(_line(suite.suite, result))
                    results[number].append(result)
            asked.append(
                EvaluatedModel(
                    opened.label,
                    opened.title,
                    opened.bytes,
                    model.key if output else "",
                    model.backend.name,
                    model.backend.precision,
                    time.monotonic() - began,
                    peak.bytes,
                )
            )
    suite_results = tuple(
        SuiteResult(suite.suite, tuple(of_models), _questions(of_models[0]))
        for suite, of_models in zip(suites, results, strict=True)
    )
    return Evaluation(suite_results, settings, base, tuple(parents), tuple(asked))


def _labelled(models: Sequence[Source] | Mapping[str, Source]) -> dict[str, Source]:
    """Label -> model. Raises EvaluationError where two have one name."""
    if not models:
        raise EvaluationError("nothing to evaluate: give at least one model")
    if isinstance(models, Mapping):
        return {str(label): source for label, source in models.items()}
    labelled: dict[str, Source] = {}
    for source in models:
        label = source.file.path.stem if isinstance(source, Recipe) else short_name(str(source))
        if label in labelled:
            raise EvaluationError(f"two models are called {label!r}: give each its own name, as label: model")
        labelled[label] = source
    return labelled


def _roles(labels: list[str], base: str | None, parents: Sequence[str] | None) -> tuple[str | None, list[str]]:
    for label in (*([base] if base else []), *(parents or ())):
        if label not in labels:
            raise EvaluationError(f"{label!r} is not one of the models; they are {', '.join(labels)}")
    base = base or (labels[0] if len(labels) > 1 else None)
    parent_labels = list(parents) if parents is not None else [label for label in labels[1:-1] if label != base]
    return base, parent_labels


def _questions(result: ModelResult) -> dict[str, tuple[int, int]]:
    tasks = {task for value in result.values.values() for task, _ in value.answers}
    sizes = result.harness["n-samples"]
    return {name: (sizes[name]["effective"], sizes[name]["original"]) for name in sizes if name in tasks}


def _line(suite: Suite, result: ModelResult) -> str:
    """What is logged of one model on one suite."""
    average = result.average(suite)
    values = ", ".join(f"{entry.name} {value.value:.2f}" for entry, value in result.values.items())
    shown = values if len(result.values) <= 4 else f"{average:.2f}" if average is not None else ""
    line = f"{result.label}: {suite.name} {shown}".rstrip()
    line += f"; {result.computed} requests answered, {result.reused} reused, in {result.seconds:.0f} s"
    if truncated := sum(result.truncated.values()):
        line += f"; {truncated} were longer than the context window and were cut at the beginning"
    return line


@dataclass(frozen=True)
class _Session:
    """What all models of an evaluation share."""

    settings: EvaluationSettings
    store: AnswerStore
    token_cache: dict[str, np.ndarray] | None
    on_progress: OnProgress


def _ask(session: _Session, model: LoadedModel, suite: OpenSuite, chosen: dict[str, list[int]] | None) -> ModelResult:
    """`chosen`: the numbers of the questions of each task; None: all, or the first ones."""
    started = time.monotonic()
    backend = StoredBackend(
        model.backend,
        session.store,
        model.key,
        on_progress=counted(session.on_progress, f"evaluating {model.label}", "requests"),
    )
    values: dict[SuiteEntry, TaskResult] = {}
    form: dict[str, Any] = {}
    truncated: dict[str, int] = {}
    if suite.harness:
        values, form, truncated = _ask_harness(session, model, suite, backend, chosen)
    for entry, task in suite.own.items():
        count = task.count(backend.tokens)
        numbers = chosen[entry.name] if chosen else range(min(count, session.settings.limit or count))
        samples = task.samples(backend, [number for number in numbers if number < count])
        values[entry] = result_of(entry, task, samples, *_units(task, backend))
        form = join_forms(form, harness_form(values[entry], samples, count))
    return ModelResult(
        model.label,
        model.reference,
        backend.name,
        backend.precision,
        {entry: values[entry] for entry in suite.suite.entries},
        form,
        truncated,
        backend.computed,
        backend.reused,
        time.monotonic() - started,
    )


def _ask_harness(
    session: _Session, model: LoadedModel, suite: OpenSuite, backend: Backend, chosen: dict[str, list[int]] | None
) -> tuple[dict[SuiteEntry, TaskResult], dict[str, Any], dict[str, int]]:
    """All tasks of lm-evaluation-harness in one pass: what their prompts share is read once."""
    from weightsmith.evaluation.harness.harness_model import HarnessModel
    from weightsmith.evaluation.harness.harness_run import run_harness
    from weightsmith.evaluation.harness.read_result import read_result

    settings, tasks = session.settings, suite.harness
    assert tasks
    if settings.chat and not backend.tokens.template:
        raise EvaluationError(f"{model.reference}: has no chat template; evaluate without --chat")
    harness_model = HarnessModel(
        backend, token_cache=session.token_cache, max_length=settings.max_length, seed=settings.seed
    )
    form = run_harness(
        harness_model,
        tasks,
        samples={name: numbers for name, numbers in chosen.items() if name in tasks.tasks} if chosen else None,
        limit=settings.limit,
        seed=settings.seed,
        chat=settings.chat,
        system=settings.system,
        multiturn=settings.multiturn,
    )
    values = {entry: read_result(entry, tasks, form) for entry in suite.suite.entries if entry.task}
    return values, form, dict(harness_model.truncated)


def _units(task: OwnTask, backend: Backend) -> tuple[str, str]:
    """What the units of a task are called, and a digest of them where they depend on the tokenizer."""
    if isinstance(task, Text):
        return "windows", digest([window.tolist() for window in task.windows(backend.tokens)])
    return "questions", ""
