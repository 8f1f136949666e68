"""What a search makes better, question by question.

Every objective is a list of units (questions of a task, lines of a file, windows of a text), some of which the search
sees and some of which are held out. A unit's answer is a pair of numbers; the value of many units is made from theirs
alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from weightsmith.errors import EvaluationError
from weightsmith.evaluation.backend import Backend, question_tokens
from weightsmith.evaluation.evaluate import WINDOW
from weightsmith.evaluation.request import Request
from weightsmith.evaluation.scoring.exact_answers import answer_nats, exact_answers
from weightsmith.evaluation.tasks.question_files import load_questions, load_text
from weightsmith.files.find_path import path_beside
from weightsmith.recipe_search.search_file import ObjectiveEntry, SearchFile

Answer = tuple[float, float]  # (what the unit contributes, its size): right or wrong and 1; nats and tokens
Answers = Mapping[int, Answer]
_SPLIT_STREAM = 0x5EED


class Objective(Protocol):
    """`factor`: of the mean, to the published value; None: that is a perplexity, and the mean is in nats."""

    name: str
    weight: float
    units: int

    @property
    def metric(self) -> str: ...
    @property
    def factor(self) -> float | None: ...
    @property
    def higher_is_better(self) -> bool: ...

    def ask(self, backend: Backend, numbers: Sequence[int]) -> dict[int, Answer]:
        """The answers to some units. Raises EvaluationError."""
        ...


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


def point(answers: Answers) -> float:
    """The mean per unit of size: a share of right answers, or nats per token."""
    return sum(a for a, _ in answers.values()) / sum(size for _, size in answers.values())


def value(objective: Objective, answers: Answers) -> float:
    """As it is published: a percentage, or a perplexity, infinite where it is too large for a float."""
    mean = point(answers)
    if objective.factor is None:
        return math.exp(mean) if mean < 700 else math.inf
    return objective.factor * mean


class QuestionObjective:
    """The share of questions whose greedy answer is exactly the right one, or the perplexity of right answers."""

    def __init__(self, entry: ObjectiveEntry, path: Path) -> None:
        task = load_questions(path)
        self.metric = entry.metric or "exact_match"
        self.higher_is_better = self.metric == "exact_match"
        self.factor = 100.0 if self.higher_is_better else None
        self.name, self.weight = entry.name or task.name, entry.weight
        self._prompts, self._targets = task.prompts, task.targets
        self.units = min(len(self._prompts), entry.limit or len(self._prompts))
        self._tokens: dict[int, np.ndarray] = {}

    def ask(self, backend: Backend, numbers: Sequence[int]) -> dict[int, Answer]:
        for number in numbers:
            if number not in self._tokens:
                self._tokens[number] = question_tokens(backend, self._prompts[number])
        prompts = [self._tokens[number] for number in numbers]
        targets = [self._targets[number] for number in numbers]
        if self.metric == "perplexity":
            unit_answers = answer_nats(backend, prompts, targets)
        else:
            unit_answers = [(float(right), 1.0) for right in exact_answers(backend, prompts, targets)]
        return dict(zip(numbers, unit_answers, strict=True))


class TextObjective:
    """Perplexity in windows of 512 tokens, each of which is a unit."""

    metric, higher_is_better, factor = "perplexity", False, None

    def __init__(self, entry: ObjectiveEntry, path: Path, backend: Backend) -> None:
        text = load_text(path)
        self.name, self.weight = entry.name or text.name, entry.weight
        (tokens,) = backend.tokens.encode([text.text], special=False)
        windows = [tokens[i : i + WINDOW] for i in range(0, len(tokens), WINDOW)]
        if len(tokens) < 2 * WINDOW:  # a short text: as many windows as can be compared
            step = max(2, len(tokens) // 8)
            windows = [tokens[i : i + step] for i in range(0, len(tokens), step)]
        self._windows = [window for window in windows if len(window) > 1]
        if len(self._windows) < 2:
            raise EvaluationError(
                f"{path}: a text of {len(tokens)} tokens is too short to be split into a searched and a held-out part"
            )
        self.units = min(len(self._windows), entry.limit or len(self._windows))

    def ask(self, backend: Backend, numbers: Sequence[int]) -> dict[int, Answer]:
        windows = [self._windows[number] for number in numbers]
        scores = backend.score([Request(window, len(window) - 1) for window in windows])
        return {
            number: (-score.log_likelihood, float(len(window) - 1))
            for number, score, window in zip(numbers, scores, windows, strict=True)
        }


class TaskObjective:
    """A task of lm-evaluation-harness, by a metric that is a mean over questions."""

    def __init__(self, entry: ObjectiveEntry, search: SearchFile, data: Path | None, folder: Path) -> None:
        from weightsmith.evaluation.harness.suite_tasks import load_tasks
        from weightsmith.evaluation.tasks.suite import Part, Suite, SuiteEntry

        assert entry.task
        suite_entry = SuiteEntry(task=entry.task, metric=(entry.metric,) if entry.metric else (), filter=entry.filter)
        suite = Suite(name="search", about="", source="", parts=(Part(name=entry.task, tasks=(suite_entry,)),))
        include = [path_beside(path, folder) for path in search.include]
        self._entry, self._chat = suite_entry, search.chat
        self._tasks = load_tasks(suite, data=data, fewshot=entry.fewshot, include=include)
        leaves = self._tasks.leaves[suite_entry]
        self.name, self.weight = entry.name or entry.task, entry.weight
        self._questions = [(leaf, n) for leaf in leaves for n in range(len(self._tasks.tasks[leaf].eval_docs))]
        if entry.limit and entry.limit < len(self._questions):
            random = np.random.default_rng([_SPLIT_STREAM, search.seed])
            chosen = sorted(random.permutation(len(self._questions))[: entry.limit].tolist())
            self._questions = [self._questions[k] for k in chosen]
        self.units = len(self._questions)
        self.metric, self.factor = entry.metric or "", 100.0
        self._direction, self.higher_is_better = entry.direction, entry.direction != "minimize"
        self._token_cache: dict[str, np.ndarray] = {}

    def ask(self, backend: Backend, numbers: Sequence[int]) -> dict[int, Answer]:
        from weightsmith.evaluation.harness.harness_model import HarnessModel
        from weightsmith.evaluation.harness.harness_run import run_harness
        from weightsmith.evaluation.harness.suite_tasks import SuiteTasks
        from weightsmith.evaluation.harness.values import read_value

        numbers_of_task: dict[str, list[int]] = {}
        for leaf, question in sorted(self._questions[number] for number in numbers):
            numbers_of_task.setdefault(leaf, []).append(question)
        all_tasks = self._tasks
        leaves = {entry: [*numbers_of_task] for entry in all_tasks.leaves}
        chosen_tasks = SuiteTasks(
            all_tasks.suite, {leaf: all_tasks.tasks[leaf] for leaf in numbers_of_task}, {}, leaves
        )
        model = HarnessModel(backend, versions=chosen_tasks.versions, token_cache=self._token_cache)
        value_ = read_value(
            self._entry, chosen_tasks, run_harness(model, chosen_tasks, samples=numbers_of_task, chat=self._chat)
        )
        if value_.aggregate is not None:
            raise EvaluationError(
                f"{self.name}: the metric {value_.metric} is not a mean over questions, so it cannot be searched for; "
                "name another with `metric`"
            )
        self.metric, self.factor = value_.metric, value_.factor
        self.higher_is_better = value_.higher_is_better if self._direction is None else self.higher_is_better
        return {number: (float(value_.of_question[self._questions[number]]), 1.0) for number in numbers}


def open_objectives(search: SearchFile, folder: Path, backend: Backend) -> list[Objective]:
    """Paths are relative to the working directory, or to the file's `folder`. Raises EvaluationError."""
    objectives: list[Objective] = []
    for entry in search.objective:
        if entry.questions:
            objectives.append(QuestionObjective(entry, path_beside(entry.questions, folder)))
        elif entry.perplexity:
            objectives.append(TextObjective(entry, path_beside(entry.perplexity, folder), backend))
        else:
            data = path_beside(search.data, folder) if search.data else None
            task = TaskObjective(entry, search, data, folder)
            task.ask(backend, [0])  # whether it has that metric, and which way is better, is known by an answer
            objectives.append(task)
        if objectives[-1].units < 2:
            raise EvaluationError(f"{objectives[-1].name}: a search needs two or more questions")
    names = [objective.name for objective in objectives]
    if len(set(names)) < len(names):
        raise EvaluationError(f"two objectives are called {max(names, key=names.count)!r}; give one a `name`")
    return objectives


def utility(objectives: Sequence[Objective], answers: Sequence[Answers]) -> float:
    """What a search makes as large as it can: the weighted sum of shares of right answers, minus nats per token."""
    return sum(
        objective.weight * (1 if objective.higher_is_better else -1) * point(objective_answers)
        for objective, objective_answers in zip(objectives, answers, strict=True)
    )


def is_finite(answers: Sequence[Mapping[int, Any]]) -> bool:
    return all(math.isfinite(a) for objective_answers in answers for a, _ in objective_answers.values())
