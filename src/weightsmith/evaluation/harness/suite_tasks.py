"""The tasks of a suite, loaded by lm-evaluation-harness: its prompts, its metrics, its few-shot sampling."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from weightsmith.errors import EvaluationError
from weightsmith.evaluation.harness.local_data import LocalFiles, local_data
from weightsmith.evaluation.harness.quiet_harness import quiet_harness
from weightsmith.evaluation.tasks.suite import SUITES, Suite, SuiteEntry
from weightsmith.files.suggestions import nearest

FEWSHOT_SEED = 1234  # lm-eval's own default


@dataclass
class SuiteTasks:
    """`tasks`: lm-eval's task objects by name; `groups`: its groups; `leaves`: the tasks behind each entry of the
    suite that names one."""

    suite: Suite
    tasks: dict[str, Any]
    groups: dict[str, Any]
    leaves: dict[SuiteEntry, list[str]]


def load_tasks(
    suite: Suite, *, data: Path | None = None, fewshot: int | None = None, include: Sequence[Path] = ()
) -> SuiteTasks:
    """`data`: local files instead of the hub; `fewshot`: for all tasks but those that are zero-shot by their own
    configuration; `include`: folders with more task files. Raises EvaluationError for unknown tasks and for data that
    is missing or does not fit."""
    quiet_harness()
    entries = [entry for entry in suite.entries if entry.task]
    manager = _manager_of([entry.task for entry in entries], tuple(map(str, include)))
    for entry in entries:
        if entry.task not in manager.task_index:
            raise EvaluationError(
                f"lm-evaluation-harness has no task {entry.task!r}{_nearest_task(entry.task, manager.all_tasks)}"
            )
    tasks: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    leaves: dict[SuiteEntry, list[str]] = {}
    with local_data(data) if data else nullcontext() as files:
        for entry in entries:
            if entry.task not in (*tasks, *groups):
                loaded = _load(manager, entry.task, files)
                tasks |= loaded["tasks"]
                groups |= loaded["groups"]
                names = list(loaded["tasks"])
            else:
                names = (
                    [t.task_name for t in groups[entry.task].get_all_tasks()] if entry.task in groups else [entry.task]
                )
            if entry.choices:
                tasks[entry.name] = _with_choices(tasks[entry.task], entry)
                names = [entry.name]
            leaves[entry] = names
            num_fewshot = fewshot if fewshot is not None else entry.fewshot
            for name in names:
                _set_fewshot(tasks[name], num_fewshot)
        used = {name for names in leaves.values() for name in names}
        tasks = {name: task for name, task in tasks.items() if name in used}
        for name, task in tasks.items():
            _try(name, task, data)
    return SuiteTasks(suite, tasks, groups, leaves)


def _manager_of(names: Iterable[str], include: tuple[str, ...]) -> Any:
    """A manager that knows `names`, if any does. lm-eval reads thousands of files to know its own tasks, for ten
    seconds; single tasks of our folder and of `include` need none of them."""
    own = _manager(include, with_lm_evals=False)
    own_tasks = set(own.all_subtasks)
    if own_tasks.issuperset(names):
        return own
    return _manager(include, with_lm_evals=True)


@lru_cache(maxsize=4)
def _manager(include: tuple[str, ...], *, with_lm_evals: bool = True) -> Any:
    from lm_eval.tasks import TaskManager

    for folder in include:
        if not Path(folder).is_dir():
            raise EvaluationError(f"--include {folder}: no such folder")
    return TaskManager(include_path=[str(SUITES / "quick"), *include], include_defaults=with_lm_evals)


def _nearest_task(name: str, known: Iterable[str]) -> str:
    suggestion = nearest(name, known)
    return suggestion if "did you mean" in suggestion else "; `lm-eval ls tasks` lists them"


def _load(manager: Any, name: str, files: LocalFiles | None) -> dict[str, Any]:
    try:
        return manager.load([name])
    except EvaluationError:
        raise
    except ImportError as error:
        raise EvaluationError(f"task {name!r} needs a package that is not installed: {error}") from error
    except Exception as error:  # of datasets, the hub's client, or the task's own code
        if files:
            raise EvaluationError(_misfit(name, "--data", error, files.fields)) from error
        raise EvaluationError(
            f"task {name!r} cannot be loaded: {_first_line(error)}; without a connection, give its data with --data"
        ) from error


def _with_choices(task: Any, entry: SuiteEntry) -> Any:
    """A copy of a task that keeps the questions with as many answers as the entry says."""
    narrowed = copy.copy(task)
    narrowed._config = copy.copy(task.config)
    before = task.config.process_docs
    field, count = "multiple_choice_targets", entry.choices

    def process(docs: Any) -> Any:
        docs = before(docs) if before else docs
        return docs.filter(lambda doc: len(doc[field]) == count)

    narrowed.config.task, narrowed.config.process_docs = entry.name, process
    return narrowed


def _set_fewshot(task: Any, num_fewshot: int | None) -> None:
    """Set the number of examples as lm-eval does: what a task has fixed at zero stays."""
    configured = task.get_config("num_fewshot")
    if num_fewshot is not None and configured != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif configured is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)


def _try(name: str, task: Any, data: Path | None) -> None:
    """Build the first question, so that data with other fields is refused before a model is loaded."""
    try:
        task.build_all_requests(limit=1, rank=0, world_size=1)
        if not task.instances:
            raise ValueError("it holds no question")
    except EvaluationError:
        raise
    except Exception as error:  # of templates, or of the task's own code
        missing = getattr(getattr(task, "dataset", None), "missing", None)
        if missing:
            raise EvaluationError(f"task {name!r}: {next(iter(missing.values()))}") from error
        data_source = f"--data {data}" if data else f"the dataset {task.DATASET_PATH}"
        raise EvaluationError(_misfit(name, data_source, error, _fields(task))) from error


def _misfit(name: str, data_source: str, error: Exception, fields: Sequence[str]) -> str:
    reason = f"field {error} is missing" if isinstance(error, KeyError) else _first_line(error)
    return f"task {name!r}: the data from {data_source} does not fit: {reason} (its fields: {', '.join(fields)})"


def _fields(task: Any) -> list[str]:
    try:
        return sorted(next(iter(task.eval_docs)))
    except Exception:  # whatever is wrong with the data, the message about it goes first
        return ["none"]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
