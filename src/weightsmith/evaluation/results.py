"""What a benchmark found: the numbers of each model, and how they compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from weightsmith.evaluation.harness.values import Value
from weightsmith.evaluation.paired_tests import Comparison, compare, compare_averages
from weightsmith.evaluation.settings import BenchmarkSettings
from weightsmith.evaluation.tasks.suite import Part, Suite, SuiteEntry


@dataclass(frozen=True)
class ModelResult:
    """One model on one suite. `harness`: lm-evaluation-harness's results, samples included; `truncated`: requests per
    task whose beginning did not fit; `computed` and `reused`: requests by where their answers came from."""

    label: str
    reference: str
    backend: str
    precision: str
    values: dict[SuiteEntry, Value]
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
class Benchmark:
    """All models on one suite; `base` and `parents` are labels. `questions`: how many of each task were asked, and
    there are."""

    suite: Suite
    settings: BenchmarkSettings
    models: tuple[ModelResult, ...]
    base: str | None
    parents: tuple[str, ...]
    questions: dict[str, tuple[int, int]]

    def model(self, label: str) -> ModelResult:
        return next(model for model in self.models if model.label == label)

    def compare(self, label: str, other: str, scope: SuiteEntry | Part | None = None) -> Comparison:
        """On one entry, one part, or (None) the average of the suite; these two must have an average."""
        our_model, other_model = self.model(label), self.model(other)
        scope = _single(scope)
        if isinstance(scope, SuiteEntry):
            return compare(our_model.values[scope], other_model.values[scope], other)
        parts = [
            [entry for entry in part.tasks if our_model.values[entry].averages]
            for part in ([scope] if scope else self.suite.parts)
        ]
        parts = [entries for entries in parts if entries]
        weights = {entry: 1 / len(entries) / len(parts) for entries in parts for entry in entries}
        our_values, their_values = ([model.values[entry] for entry in weights] for model in (our_model, other_model))
        return compare_averages(our_values, their_values, list(weights.values()), other)

    def best_parent(self, scope: SuiteEntry | Part | None = None) -> str | None:
        """The label of the parent that is best there."""
        scope = _single(scope)

        def height(label: str) -> float:
            model = self.model(label)
            if isinstance(scope, SuiteEntry):
                value = model.values[scope]
                return value.value if value.higher_is_better else -value.value
            return (model.of_part(scope) if scope else model.average(self.suite)) or 0.0

        return max(self.parents, key=height) if self.parents else None


def _single(scope: SuiteEntry | Part | None) -> SuiteEntry | Part | None:
    """A part of one task is that task, with its own test and direction."""
    return scope.tasks[0] if isinstance(scope, Part) and len(scope.tasks) == 1 else scope
