"""Something a model can be asked, with a metric and paired answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from weightsmith.evaluation.backend import Backend
from weightsmith.evaluation.text_tokens import TextTokens

Answer = tuple[float, float]  # (what the unit contributes, its size): right or wrong and 1; nats and tokens
Answers = Mapping[int, Answer]


@dataclass(frozen=True)
class Sample:
    """The answer to one unit, by its number. `record`: prompt, answer and so on, as they go into a file of samples."""

    number: int
    answer: Answer
    record: dict[str, Any] = field(default_factory=dict)


class Task(Protocol):
    """A list of units: questions, or windows of a text. The value of many units is made from their answers alone, so
    any part of a task can be asked, and two models that answered the same units can be compared in pairs.

    `factor`: of the mean, to the published value; None: that is a perplexity, and the mean is in nats."""

    name: str

    @property
    def metric(self) -> str: ...
    @property
    def factor(self) -> float | None: ...
    @property
    def higher_is_better(self) -> bool: ...

    def count(self, tokens: TextTokens) -> int:
        """How many units there are for a model with these tokens. Raises EvaluationError."""
        ...

    def samples(self, backend: Backend, numbers: Sequence[int]) -> list[Sample]:
        """Ask the units `numbers`. Raises EvaluationError."""
        ...


def mean(answers: Answers) -> float:
    """The mean per unit of size: a share of right answers, or nats per token."""
    return sum(amount for amount, _ in answers.values()) / sum(size for _, size in answers.values())


def published(mean_: float, factor: float | None) -> float:
    """A mean as it is published: a percentage, or a perplexity, infinite where it is too large for a float."""
    if factor is None:
        return math.exp(mean_) if mean_ < 700 else math.inf
    return factor * mean_
