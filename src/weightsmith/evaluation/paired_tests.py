"""Whether one model is better than another by more than chance. Both answered the same questions, so differences are
tested in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weightsmith.evaluation.harness.values import Value

LEVEL = 0.05
DRAWS = 10_000
_SLOW_DRAWS = 500  # where each draw calls the task's own aggregation
_CELLS = 4_000_000  # elements drawn at once


@dataclass(frozen=True)
class Comparison:
    """`difference` of the published values, ours minus theirs; `low` to `high` hold it with 95 % confidence; `p`: how
    often chance alone does as much; `test`: how that was found."""

    other: str
    difference: float
    low: float
    high: float
    p: float
    questions: int
    test: str
    higher_is_better: bool = True

    @property
    def verdict(self) -> str:
        """The comparison in plain words."""
        if self.p >= LEVEL:
            return f"no difference seen with {self.questions} questions"
        return "better" if (self.difference > 0) == self.higher_is_better else "worse"


def compare(ours: Value, theirs: Value, other: str) -> Comparison:
    """One number of two models. Right or wrong answers: McNemar's test, exact (https://doi.org/10.1007/BF02295996);
    others: paired bootstrap. The interval is the bootstrap's in both cases. Raises ValueError where the questions are
    not the same."""
    if ours.of_question.keys() != theirs.of_question.keys():
        raise ValueError(f"{ours.entry.name}: the two models answered different questions")
    difference = ours.value - theirs.value
    draws = _draws(ours, theirs)
    low, high = np.quantile(draws, [0.025, 0.975])
    p, test = bootstrap_p(draws), "paired bootstrap"
    if ours.aggregate is None and _are_binary(ours) and _are_binary(theirs):
        p, test = _mcnemar(_differences(ours, theirs)), "McNemar"
    return Comparison(other, difference, float(low), float(high), p, ours.count, test, ours.higher_is_better)


def compare_averages(
    ours: Sequence[Value], theirs: Sequence[Value], weights: Sequence[float], other: str
) -> Comparison:
    """A weighted sum of several numbers: questions are drawn anew within each (stratified paired bootstrap)."""
    draws = np.zeros(DRAWS)
    difference = 0.0
    for stream, (our_value, their_value, weight) in enumerate(zip(ours, theirs, weights, strict=True)):
        difference += weight * (our_value.value - their_value.value)
        draws += weight * np.resize(_draws(our_value, their_value, stream), DRAWS)
    low, high = np.quantile(draws, [0.025, 0.975])
    count = sum(value.count for value in ours)
    return Comparison(other, difference, float(low), float(high), bootstrap_p(draws), count, "paired bootstrap")


def _differences(ours: Value, theirs: Value) -> np.ndarray:
    """Per question, in units of the published value."""
    return np.array([(float(x) - float(theirs.of_question[q])) * ours.factor for q, x in ours.of_question.items()])


def _are_binary(value: Value) -> bool:
    return all(float(answer) in (0.0, 1.0) for answer in value.of_question.values())


def _draws(ours: Value, theirs: Value, stream: int = 0) -> np.ndarray:
    """The difference for as many questions drawn with replacement, many times; other numbers for another `stream`."""
    if ours.aggregate is not None:
        return _aggregated(ours, theirs, stream)
    values = _differences(ours, theirs)
    return bootstrap_means(values, np.ones(len(values)), np.random.default_rng(stream))


def bootstrap_means(values: np.ndarray, sizes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Sums of `values` over sums of `sizes`, both float of shape (questions,), for as many questions drawn with
    replacement: float64 of shape (DRAWS,)."""
    means, at_once = [], max(1, _CELLS // len(values))
    for start in range(0, DRAWS, at_once):
        sample = random.integers(0, len(values), (min(at_once, DRAWS - start), len(values)), dtype=np.int32)
        means.append(values[sample].sum(1) / sizes[sample].sum(1))
    return np.concatenate(means)


def _aggregated(ours: Value, theirs: Value, stream: int) -> np.ndarray:
    random, questions = np.random.default_rng(stream), list(ours.of_question)
    assert ours.aggregate
    differences = []
    for _ in range(_SLOW_DRAWS):
        sample = [questions[k] for k in random.integers(0, len(questions), len(questions))]
        our_value, their_value = (ours.aggregate([value.of_question[q] for q in sample]) for value in (ours, theirs))
        differences.append((our_value - their_value) * ours.factor)
    return np.array(differences)


def bootstrap_p(draws: np.ndarray) -> float:
    """Two-sided: twice the share of draws on the other side of zero."""
    count = len(draws)
    below, above = np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0)
    return min(1.0, 2 * (min(below, above) + 1) / (count + 1))


def _mcnemar(differences: np.ndarray) -> float:
    """Of the questions that only one model has right, how even is the split?"""
    from scipy.stats import binomtest

    ours, theirs = np.count_nonzero(differences > 0), np.count_nonzero(differences < 0)
    return float(binomtest(ours, ours + theirs).pvalue) if ours + theirs else 1.0
