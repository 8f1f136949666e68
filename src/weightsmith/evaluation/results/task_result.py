"""The answers of one model to one task, and the number that is published of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weightsmith.evaluation.task import Answer, Sample, Task, mean, published
from weightsmith.evaluation.tasks.suite import SuiteEntry

Unit = tuple[str, int]  # task, number of the question, or of the window of a text


@dataclass(frozen=True)
class TaskResult:
    """One entry of a suite for one model. `value` and `error` (standard error; None where there is none) are as
    published: a percentage, normalised where the suite says so, or a perplexity.

    `answers`: an `Answer` of each unit; with `aggregate`, which makes the bare value of them, what it takes. `factor`:
    what one unit of the bare value is in `value`; None: the value is exp of the mean. `averages`: is it a percentage
    that an average may hold, as a perplexity is not. `units`: what the units are called. `units_digest`: of what they
    are; where two results differ in it, they are not comparable."""

    entry: SuiteEntry
    metric: str
    filter: str
    value: float
    error: float | None
    answers: Mapping[Unit, Any]
    higher_is_better: bool
    aggregate: Callable[[Sequence[Any]], float] | None
    factor: float | None
    averages: bool = True
    units: str = "questions"
    units_digest: str = ""

    @property
    def count(self) -> int:
        """How many questions were answered, or windows of a text read."""
        return len(self.answers)


def result_of(entry: SuiteEntry, task: Task, samples: Sequence[Sample], units: str, units_digest: str) -> TaskResult:
    """The published value of `samples` and its standard error, of a ratio of sums where units differ in size."""
    answers = {sample.number: sample.answer for sample in samples}
    bare = mean(answers)
    value, error = published(bare, task.factor), _standard_error(list(answers.values()), bare)
    if error is not None:
        error *= value if task.factor is None else task.factor  # d exp(x) = exp(x) dx
    return TaskResult(
        entry,
        task.metric,
        "none",
        value,
        error,
        {(entry.name, number): answer for number, answer in sorted(answers.items())},
        task.higher_is_better,
        None,
        task.factor,
        averages=task.higher_is_better,
        units=units,
        units_digest=units_digest,
    )


def _standard_error(answers: Sequence[Answer], bare: float) -> float | None:
    """Of a ratio of sums (https://doi.org/10.1002/9780470316481, chapter 2); for units of size 1, of a mean."""
    count = len(answers)
    if count < 2:
        return None
    residuals = math.fsum((amount - bare * size) ** 2 for amount, size in answers)
    return math.sqrt(residuals * count / (count - 1)) / math.fsum(size for _, size in answers)
