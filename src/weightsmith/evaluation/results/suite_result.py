"""What all models scored on one suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from weightsmith.evaluation.results.paired_tests import Comparison, compare, compare_averages
from weightsmith.evaluation.results.task_result import TaskResult
from weightsmith.evaluation.tasks.suite import Part, Suite, SuiteEntry

Scope = SuiteEntry | Part | None  # None: the average of the suite
AVERAGE = "average"


@dataclass(frozen=True)
class ModelResult:
    """One model on one suite. `values`: the result of each entry; `harness`: results in lm-evaluation-harness's form,
    samples included; `truncated`: requests per task whose beginning did not fit; `computed` and `reused`: requests by
    where their answers came from."""

    label: str
    reference: str
    backend: str
    precision: str
    values: dict[SuiteEntry, TaskResult]
    harness: dict[str, Any]
    truncated: dict[str, int]
    computed: int
    reused: int
    seconds: float

    def of_part(self, part: Part) -> float | None:
        """The mean of what can be averaged; None where nothing can, as with a perplexity."""
        values = [value.value for entry in part.tasks if (value := self.values[entry]).averages]
        return sum(values) / len(values) if values else None

    def average(self, suite: Suite) -> float | None:
        averages = [value for part in suite.parts if (value := self.of_part(part)) is not None]
        return sum(averages) / len(averages) if averages else None


@dataclass(frozen=True)
class SuiteResult:
    """All models on one suite; tasks that were named one by one are a suite of their own. `questions`: how many of each
    task were asked, and there are."""

    suite: Suite
    models: tuple[ModelResult, ...]
    questions: dict[str, tuple[int, int]]

    def model(self, label: str) -> ModelResult:
        return next(model for model in self.models if model.label == label)

    def scopes(self, *, tasks: bool) -> list[Scope]:
        """Tasks (on request), parts, and the average, each only where it says something new."""
        scopes: list[Scope] = []
        for part in self.suite.parts:
            if tasks and len(part.tasks) > 1:
                scopes += part.tasks
            if len(part.tasks) == 1 or self.models[0].of_part(part) is not None:
                scopes.append(part)
        averaged = [part for part in self.suite.parts if self.models[0].of_part(part) is not None]
        return [*scopes, None] if len(averaged) > 1 else scopes

    def name_of(self, scope: Scope) -> str:
        """As it is called in tables."""
        if isinstance(scope, Part) and len(scope.tasks) > 1:
            return f"{scope.name} ({AVERAGE})"
        return AVERAGE if scope is None else scope.name

    def compare(self, label: str, other: str, scope: Scope = None) -> Comparison:
        """On one entry, one part, or (None) the average of the suite; these two must have an average. Not corrected for
        other comparisons. Raises ValueError where the two did not answer the same."""
        our_model, other_model = self.model(label), self.model(other)
        scope = _single(scope)
        if isinstance(scope, SuiteEntry):
            comparison = compare(our_model.values[scope], other_model.values[scope], label, other)
            return replace(comparison, suite=self.suite.name)
        parts = [
            [entry for entry in part.tasks if our_model.values[entry].averages]
            for part in ([scope] if scope else self.suite.parts)
        ]
        parts = [entries for entries in parts if entries]
        weights = {entry: 1 / len(entries) / len(parts) for entries in parts for entry in entries}
        our_values, their_values = ([model.values[entry] for entry in weights] for model in (our_model, other_model))
        comparison = compare_averages(
            our_values, their_values, list(weights.values()), label, other, self.name_of(scope)
        )
        return replace(comparison, suite=self.suite.name)

    def can_compare(self, label: str, other: str, scope: Scope) -> bool:
        """Whether both read the same: models with different tokenizers cut a text differently."""
        scope = _single(scope)
        return not isinstance(scope, SuiteEntry) or (
            self.model(label).values[scope].units_digest == self.model(other).values[scope].units_digest
        )

    def best_of(self, labels: Sequence[str], scope: Scope = None) -> str:
        """The label of the model that is best there."""
        scope = _single(scope)

        def height(label: str) -> float:
            model = self.model(label)
            if isinstance(scope, SuiteEntry):
                value = model.values[scope]
                return value.value if value.higher_is_better else -value.value
            return (model.of_part(scope) if scope else model.average(self.suite)) or 0.0

        return max(labels, key=height)


def _single(scope: Scope) -> Scope:
    """A part of one task is that task, with its own test and direction."""
    return scope.tasks[0] if isinstance(scope, Part) and len(scope.tasks) == 1 else scope
