"""What a search makes better: tasks with weights, each split into units that the search sees and units that are held
out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.errors import EvaluationError
from weightsmith.evaluation.backend import Backend
from weightsmith.evaluation.task import Answer, Answers, Task, mean, published
from weightsmith.evaluation.tasks.question_task import Questions
from weightsmith.evaluation.tasks.suite import SuiteEntry
from weightsmith.evaluation.tasks.text_task import Text
from weightsmith.files.find_path import path_beside
from weightsmith.recipe_search.search_file import ObjectiveEntry, SearchFile

AllAnswers = tuple[dict[int, Answer], ...]  # one dict per objective
_SPLIT_STREAM = 0x5EED


@dataclass(frozen=True)
class Objective:
    """A task and its `weight` in the sum that is searched for; `units`: how many of the task's are used."""

    task: Task
    weight: float
    units: int

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def metric(self) -> str:
        return self.task.metric

    @property
    def higher_is_better(self) -> bool:
        return self.task.higher_is_better

    def ask(self, backend: Backend, numbers: Sequence[int]) -> dict[int, Answer]:
        """The answers to some units. Raises EvaluationError."""
        return {sample.number: sample.answer for sample in self.task.samples(backend, numbers)}


@dataclass(frozen=True)
class Split:
    """Numbers of the units that the search sees, in the order they are asked in, and of those held out."""

    search: tuple[int, ...]
    held_out: tuple[int, ...]


def split(objective: Objective, held_out: float, seed: int, stream: int) -> Split:
    """Drawn at random; at least one unit each."""
    random = np.random.default_rng([_SPLIT_STREAM, seed, stream])
    order = [int(number) for number in random.permutation(objective.units)]
    kept = min(objective.units - 1, max(1, round(objective.units * held_out)))
    return Split(tuple(order[kept:]), tuple(sorted(order[:kept])))


def value(objective: Objective, answers: Answers) -> float:
    """As it is published: a percentage, or a perplexity, infinite where it is too large for a float."""
    return published(mean(answers), objective.task.factor)


def open_objectives(search: SearchFile, folder: Path, backend: Backend) -> list[Objective]:
    """Paths are relative to the working directory, or to the file's `folder`. Raises EvaluationError."""
    objectives: list[Objective] = []
    for entry in search.objective:
        task = _open_task(entry, search, folder)
        if entry.task:
            task.samples(backend, [0])  # whether it has that metric, and which way is better, is known by an answer
        objectives.append(Objective(task, entry.weight, task.count(backend.tokens)))
        if objectives[-1].units < 2:
            raise EvaluationError(f"{task.name}: a search needs two or more questions, or windows of a text")
    names = [objective.name for objective in objectives]
    if len(set(names)) < len(names):
        raise EvaluationError(f"two objectives are called {max(names, key=names.count)!r}; give one a `name`")
    return objectives


def _open_task(entry: ObjectiveEntry, search: SearchFile, folder: Path) -> Task:
    if entry.questions:
        metric = "perplexity" if entry.metric == "perplexity" else "exact_match"
        return Questions(path_beside(entry.questions, folder), metric=metric, name=entry.name, limit=entry.limit)
    if entry.perplexity:
        return Text(path_beside(entry.perplexity, folder), name=entry.name, limit=entry.limit, divisible=True)
    from weightsmith.evaluation.harness.harness_task import HarnessTask

    assert entry.task
    metrics = (entry.metric,) if entry.metric else ()
    return HarnessTask(
        SuiteEntry(task=entry.task, metric=metrics, filter=entry.filter, fewshot=entry.fewshot),
        name=entry.name,
        data=path_beside(search.data, folder) if search.data else None,
        include=[path_beside(path, folder) for path in search.include],
        limit=entry.limit,
        seed=search.seed,
        chat=search.chat,
        direction=entry.direction,
    )


def utility(objectives: Sequence[Objective], answers: Sequence[Answers]) -> float:
    """What a search makes as large as it can: the weighted sum of shares of right answers, minus nats per token."""
    return sum(
        objective.weight * (1 if objective.higher_is_better else -1) * mean(objective_answers)
        for objective, objective_answers in zip(objectives, answers, strict=True)
    )


def is_finite(answers: Sequence[Mapping[int, Any]]) -> bool:
    return all(math.isfinite(a) for objective_answers in answers for a, _ in objective_answers.values())
