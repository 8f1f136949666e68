"""What a benchmark found: the numbers of each model, and how they compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from weightsmith.evaluate.benchmark_settings import BenchmarkSettings
from weightsmith.evaluate.compare import Comparison, compare, compare_averages
from weightsmith.evaluate.suite import Entry, Part, Suite
from weightsmith.evaluate.values import Value


@dataclass(frozen=True)
class ModelResult:
    """One model on one suite. `harness`: lm-evaluation-harness's results, samples included; `truncated`: requests per task whose
    beginning did not fit; `computed` and `reused`: requests by where their answers came from."""

    label: str
    reference: str
    backend: str
    precision: str
    values: dict[Entry, Value]
    harness: dict[str, Any]
    truncated: dict[str, int]
    computed: int
    reused: int
    seconds: float

    def of_part(self, part: Part) -> float | None:
        """The mean of what can be averaged; None where nothing can, as with a perplexity."""
        found = [value.value for entry in part.tasks if (value := self.values[entry]).averages]
        return sum(found) / len(found) if found else None

    def average(self, suite: Suite) -> float | None:
        found = [value for part in suite.parts if (value := self.of_part(part)) is not None]
        return sum(found) / len(found) if found else None


@dataclass(frozen=True)
class Benchmark:
    """All models on one suite; `base` and `parents` are labels. `questions`: how many of each task were asked, and there are."""

    suite: Suite
    settings: BenchmarkSettings
    models: tuple[ModelResult, ...]
    base: str | None
    parents: tuple[str, ...]
    questions: dict[str, tuple[int, int]]

    def model(self, label: str) -> ModelResult:
        return next(model for model in self.models if model.label == label)

    def compare(self, label: str, other: str, place: Entry | Part | None = None) -> Comparison:
        """On one entry, one part, or (None) the average of the suite; these two must have an average."""
        ours, theirs = self.model(label), self.model(other)
        place = _single(place)
        if isinstance(place, Entry):
            return compare(ours.values[place], theirs.values[place], other)
        parts = [
            [entry for entry in part.tasks if ours.values[entry].averages]
            for part in ([place] if place else self.suite.parts)
        ]
        parts = [entries for entries in parts if entries]
        weights = {entry: 1 / len(entries) / len(parts) for entries in parts for entry in entries}
        mine, its = ([model.values[entry] for entry in weights] for model in (ours, theirs))
        return compare_averages(mine, its, list(weights.values()), other)

    def best_parent(self, place: Entry | Part | None = None) -> str | None:
        """The label of the parent that is best there."""
        place = _single(place)

        def height(label: str) -> float:
            model = self.model(label)
            if isinstance(place, Entry):
                value = model.values[place]
                return value.value if value.higher_is_better else -value.value
            return (model.of_part(place) if place else model.average(self.suite)) or 0.0

        return max(self.parents, key=height) if self.parents else None


def _single(place: Entry | Part | None) -> Entry | Part | None:
    """A part of one task is that task, with its own test and direction."""
    return place.tasks[0] if isinstance(place, Part) and len(place.tasks) == 1 else place
