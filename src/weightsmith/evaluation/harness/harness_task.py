"""One task of lm-evaluation-harness, question by question, by a metric that is a mean over questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from weightsmith.errors import EvaluationError
from weightsmith.evaluation.backend import Backend
from weightsmith.evaluation.harness.harness_model import HarnessModel
from weightsmith.evaluation.harness.harness_run import run_harness
from weightsmith.evaluation.harness.read_result import read_result
from weightsmith.evaluation.harness.suite_tasks import SuiteTasks, load_tasks
from weightsmith.evaluation.task import Sample
from weightsmith.evaluation.tasks.suite import SuiteEntry, suite_of
from weightsmith.evaluation.text_tokens import TextTokens

_LIMIT_STREAM = 0x5EED


class HarnessTask:
    """`name`: in tables. `metric`, `factor` and `higher_is_better` are known once something was asked.

    `limit`: so many questions, drawn at random by `seed`; `direction`: which way is better, where the task does not
    say. Raises EvaluationError for unknown tasks and for data that is missing or does not fit."""

    def __init__(
        self,
        entry: SuiteEntry,
        *,
        name: str | None = None,
        data: Path | None = None,
        include: Sequence[Path] = (),
        limit: int | None = None,
        seed: int = 0,
        chat: bool = False,
        direction: Literal["maximize", "minimize"] | None = None,
    ) -> None:
        self._entry, self._chat, self._direction = entry, chat, direction
        self._tasks = load_tasks(suite_of([entry]), data=data, fewshot=entry.fewshot, include=include)
        leaves = self._tasks.leaves[entry]
        self._questions = [(leaf, n) for leaf in leaves for n in range(len(self._tasks.tasks[leaf].eval_docs))]
        if limit and limit < len(self._questions):
            random = np.random.default_rng([_LIMIT_STREAM, seed])
            chosen = sorted(random.permutation(len(self._questions))[:limit].tolist())
            self._questions = [self._questions[k] for k in chosen]
        self.name = name or entry.name
        self.metric, self.factor = entry.metric[0] if entry.metric else "", 100.0
        self.higher_is_better = direction != "minimize"
        self._token_cache: dict[str, np.ndarray] = {}

    def count(self, tokens: TextTokens) -> int:
        """As `Task.count`."""
        return len(self._questions)

    def samples(self, backend: Backend, numbers: Sequence[int]) -> list[Sample]:
        """As `Task.samples`. Raises EvaluationError where the metric is no mean over questions."""
        numbers_of_task: dict[str, list[int]] = {}
        for leaf, question in sorted(self._questions[number] for number in numbers):
            numbers_of_task.setdefault(leaf, []).append(question)
        leaves = {entry: [*numbers_of_task] for entry in self._tasks.leaves}
        chosen = SuiteTasks(self._tasks.suite, {leaf: self._tasks.tasks[leaf] for leaf in numbers_of_task}, {}, leaves)
        model = HarnessModel(backend, token_cache=self._token_cache)
        result = read_result(self._entry, chosen, run_harness(model, chosen, samples=numbers_of_task, chat=self._chat))
        if result.aggregate is not None:
            raise EvaluationError(
                f"{self.name}: the metric {result.metric} is not a mean over questions, so it cannot be searched for; "
                "name another with `metric`"
            )
        self.metric, self.factor = result.metric, result.factor or 1.0
        self.higher_is_better = result.higher_is_better if self._direction is None else self.higher_is_better
        return [Sample(number, result.answers[self._questions[number]]) for number in numbers]
