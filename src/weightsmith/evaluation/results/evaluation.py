"""What an evaluation found: the numbers of each model on each suite, and how they compare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from weightsmith.errors import EvaluationError
from weightsmith.evaluation.results.evaluated_model import EvaluatedModel
from weightsmith.evaluation.results.paired_tests import Comparison, corrected
from weightsmith.evaluation.results.score_tables import EvaluationTables, tables_of
from weightsmith.evaluation.results.suite_result import Scope, SuiteResult
from weightsmith.evaluation.settings import EvaluationSettings


@dataclass(frozen=True)
class Evaluation:
    """All models on all suites; what `evaluate` returns.

    `models`: what was asked. `base` and `parents` are labels: each model is compared with the base, and each that is no
    parent with the parent that is best.

    >>> result = ws.evaluate(["base", "coder"], questions=["skill.jsonl"])
    >>> result.labels
    ('base', 'coder')
    >>> 0 <= result.scores["coder"]["skill"] <= 100
    True
    """

    suites: tuple[SuiteResult, ...]
    settings: EvaluationSettings
    base: str | None
    parents: tuple[str, ...]
    models: tuple[EvaluatedModel, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the models, in the order they were given in."""
        return tuple(model.label for model in self.suites[0].models)

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """The published value of each task, by model and task: a percentage, or a perplexity."""
        return {
            label: {entry.name: value.value for s in self.suites for entry, value in s.model(label).values.items()}
            for label in self.labels
        }

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Every model against the base, and against the best parent where it is none itself, on every part of every
        suite and on its average; p values are corrected for all of them together (Holm)."""
        return tuple(corrected(list(self._pairs())))

    def compare(self, label: str, other: str, *, tasks: bool = False) -> tuple[Comparison, ...]:
        """`label` against `other` on every part of every suite and on its average; with `tasks`, on every task of a
        part as well.

        For pairs that `comparisons` has, these are the same numbers. Any other pair is corrected (Holm) together with
        those. Raises EvaluationError for an unknown label.

        >>> result = ws.evaluate(["base", "coder"], questions=["skill.jsonl"])
        >>> [comparison.questions for comparison in result.compare("coder", "base")]
        [24]
        """
        for name in (label, other):
            if name not in self.labels:
                raise EvaluationError(f"{name!r} is not one of the models; they are {', '.join(self.labels)}")
        known = {(c.suite, c.on): c for c in self.comparisons if (c.label, c.other) == (label, other)}
        new = [
            result.compare(label, other, scope)
            for result in self.suites
            for scope in result.scopes(tasks=tasks)
            if result.can_compare(label, other, scope) and (result.suite.name, result.name_of(scope)) not in known
        ]
        family = corrected([*self.comparisons, *new]) if new else []
        ours = {(c.suite, c.on): c for c in family[len(self.comparisons) :]} | known
        order = [(r.suite.name, r.name_of(scope)) for r in self.suites for scope in r.scopes(tasks=tasks)]
        return tuple(ours[key] for key in order if key in ours)

    def tables(self) -> EvaluationTables:
        """Two tables per suite: scores side by side, and differences with intervals and p values."""
        return tables_of(self.suites, self.comparisons)

    def to_markdown(self) -> str:
        """The tables as a page."""
        return self.tables().to_markdown()

    def _pairs(self) -> Iterator[Comparison]:
        for result in self.suites:
            for label in self.labels:
                for scope in result.scopes(tasks=False):
                    yield from self.against(result, label, scope)

    def against(self, result: SuiteResult, label: str, scope: Scope) -> Iterator[Comparison]:
        """A model against the base and the best parent, not corrected."""
        if not self.base or label == self.base:
            return
        others = {self.base: "base"}
        if self.parents and label not in self.parents:
            others.setdefault(result.best_of(self.parents, scope), "best parent")
        for other, role in others.items():
            if result.can_compare(label, other, scope):
                yield replace(result.compare(label, other, scope), role=role)
