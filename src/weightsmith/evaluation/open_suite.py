"""A suite whose tasks are loaded, so that a model can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weightsmith.evaluation.settings import EvaluationSettings
from weightsmith.evaluation.tasks.question_task import Questions
from weightsmith.evaluation.tasks.suite import Suite, SuiteEntry
from weightsmith.evaluation.tasks.text_task import Text

if TYPE_CHECKING:
    from weightsmith.evaluation.harness.suite_tasks import SuiteTasks

OwnTask = Questions | Text


@dataclass(frozen=True)
class OpenSuite:
    """`harness`: the tasks of lm-evaluation-harness, which are asked together; None where there are none; `own`:
    question files and texts."""

    suite: Suite
    harness: SuiteTasks | None
    own: dict[SuiteEntry, OwnTask]


def open_suite(suite: Suite, settings: EvaluationSettings, own: Mapping[SuiteEntry, OwnTask]) -> OpenSuite:
    """`own`: tasks that are open already. Raises EvaluationError for unknown tasks and for data that is missing or does
    not fit."""
    tasks = {entry: own.get(entry) or _open(entry) for entry in suite.entries if not entry.task}
    harness = None
    if any(entry.task for entry in suite.entries):
        from weightsmith.evaluation.harness.suite_tasks import load_tasks

        harness = load_tasks(suite, data=settings.data, fewshot=settings.fewshot, include=settings.include)
    return OpenSuite(suite, harness, tasks)


def entry_of(task: OwnTask) -> SuiteEntry:
    """The entry of a suite that a task stands for."""
    if isinstance(task, Text):
        return SuiteEntry(text=str(task.path), alias=task.name)
    return SuiteEntry(questions=str(task.path), alias=task.name, metric=(task.metric,))


def _open(entry: SuiteEntry) -> OwnTask:
    if entry.text:
        return Text(entry.text, name=entry.alias)
    assert entry.questions
    metric = "perplexity" if entry.metric == ("perplexity",) else "exact_match"
    return Questions(entry.questions, name=entry.alias, metric=metric)
