"""Whether one model is better than another by more than chance. Both answered the same questions, so differences are
tested in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from weightsmith.evaluation.results.task_result import TaskResult
from weightsmith.evaluation.task import Answers

LEVEL = 0.05
DRAWS = 10_000
_SLOW_DRAWS = 500  # where each draw calls the task's own aggregation
_CELLS = 4_000_000  # elements drawn at once


@dataclass(frozen=True)
class Comparison:
    """`label` against `other` on a task, a part of a suite, or its average (`on`).

    `difference` of the published values; `low` to `high` hold it with 95 % confidence; `p`: how often chance alone does
    as much; `test`: how that was found; `p_holm`: p corrected for the `family` of comparisons that are looked at
    together. `role` of the other model: base, best parent, or empty. `questions`: how many answers of each model there
    are, of a text its windows (`units`)."""

    label: str
    other: str
    on: str
    difference: float
    low: float
    high: float
    p: float
    questions: int
    test: str
    higher_is_better: bool = True
    units: str = "questions"
    role: str = ""
    suite: str = ""
    p_holm: float = 1.0
    family: int = 1

    @property
    def verdict(self) -> str:
        """The comparison in plain words, by the corrected p."""
        if self.p_holm >= LEVEL:
            return f"no difference seen with {self.questions} {self.units}"
        return "better" if (self.difference > 0) == self.higher_is_better else "worse"


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same with `p_holm` and `family`, all of them taken as one family."""
    adjusted = holm([comparison.p for comparison in comparisons])
    return [
        replace(comparison, p_holm=p, family=len(comparisons))
        for comparison, p in zip(comparisons, adjusted, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for looking at all of them, in the same order: where each is below a level, the chance that
    any of them is so by luck alone is below that level (Holm 1979, https://www.jstor.org/stable/4615733).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=lambda k: p_values[k])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = highest
    return adjusted


def compare(ours: TaskResult, theirs: TaskResult, label: str, other: str) -> Comparison:
    """One number of two models. Right or wrong answers: McNemar's test, exact (https://doi.org/10.1007/BF02295996);
    others: paired bootstrap. The interval is the bootstrap's in both cases. Raises ValueError where the questions are
    not the same, or a text was cut into other tokens."""
    _check_pairs(ours, theirs)
    draws = _draws(ours, theirs)
    low, high = np.quantile(draws, [0.025, 0.975])
    p, test = bootstrap_p(draws, ours.count), "paired bootstrap"
    if ours.aggregate is None and ours.factor is not None and _are_binary(ours) and _are_binary(theirs):
        p, test = _mcnemar(ours, theirs), "McNemar"
    return Comparison(
        label,
        other,
        ours.entry.name,
        ours.value - theirs.value,
        float(low),
        float(high),
        p,
        ours.count,
        test,
        ours.higher_is_better,
        ours.units,
    )


def compare_averages(
    ours: Sequence[TaskResult], theirs: Sequence[TaskResult], weights: Sequence[float], label: str, other: str, on: str
) -> Comparison:
    """A weighted sum of several numbers: questions are drawn anew within each (stratified paired bootstrap)."""
    draws = np.zeros(DRAWS)
    difference = 0.0
    for stream, (our_result, their_result, weight) in enumerate(zip(ours, theirs, weights, strict=True)):
        _check_pairs(our_result, their_result)
        difference += weight * (our_result.value - their_result.value)
        draws += weight * np.resize(_draws(our_result, their_result, stream), DRAWS)
    low, high = np.quantile(draws, [0.025, 0.975])
    count = sum(result.count for result in ours)
    return Comparison(
        label, other, on, difference, float(low), float(high), bootstrap_p(draws, count), count, "paired bootstrap"
    )


def drawn_differences(ours: Answers, theirs: Answers, random: np.random.Generator) -> np.ndarray:
    """`ours` minus `theirs`, per unit of size, with units drawn anew, the same for both: float64 of shape (DRAWS,)."""
    numbers = sorted(ours)
    sizes = np.array([ours[n][1] for n in numbers])
    differences = np.array([ours[n][0] - theirs[n][0] for n in numbers])
    (means,) = _bootstrap_means([differences], sizes, random)
    return means


def bootstrap_p(draws: np.ndarray, units: int) -> float:
    """Two-sided: twice the share of draws on the other side of zero. No less than 2 / 2^units: by chance alone, so many
    differences all have one sign that often, however much the draws agree."""
    count = len(draws)
    below, above = np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0)
    return min(1.0, max(2 * (min(below, above) + 1) / (count + 1), 2.0 ** (1 - units)))


def _check_pairs(ours: TaskResult, theirs: TaskResult) -> None:
    if ours.units_digest != theirs.units_digest:
        raise ValueError(
            f"{ours.entry.name}: the two models cut the text into different tokens, so their perplexities per token "
            "cannot be compared"
        )
    if ours.answers.keys() != theirs.answers.keys():
        raise ValueError(f"{ours.entry.name}: the two models answered different questions")


def _are_binary(result: TaskResult) -> bool:
    return all(amount in (0.0, 1.0) and size == 1 for amount, size in result.answers.values())


def _draws(ours: TaskResult, theirs: TaskResult, stream: int = 0) -> np.ndarray:
    """The difference for as many questions drawn with replacement, many times; other numbers for another `stream`."""
    random = np.random.default_rng(stream)
    if ours.aggregate is not None:
        return _aggregated(ours, theirs, random)
    units = list(ours.answers)
    sizes = np.array([ours.answers[unit][1] for unit in units])
    our_amounts, their_amounts = (np.array([result.answers[unit][0] for unit in units]) for result in (ours, theirs))
    if ours.factor is None:
        our_means, their_means = _bootstrap_means([our_amounts, their_amounts], sizes, random)
        return np.exp(our_means) - np.exp(their_means)
    (means,) = _bootstrap_means([(our_amounts - their_amounts) * ours.factor], sizes, random)
    return means


def _bootstrap_means(values: Sequence[np.ndarray], sizes: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
    """Of each of `values`, float of shape (units,), sums over sums of `sizes`, for as many units drawn with
    replacement, the same for all: float64 of shape (DRAWS,)."""
    means: list[list[np.ndarray]] = [[] for _ in values]
    at_once = max(1, _CELLS // len(sizes))
    for start in range(0, DRAWS, at_once):
        sample = random.integers(0, len(sizes), (min(at_once, DRAWS - start), len(sizes)), dtype=np.int32)
        sampled_sizes = sizes[sample].sum(1)
        for number, amounts in enumerate(values):
            means[number].append(amounts[sample].sum(1) / sampled_sizes)
    return [np.concatenate(parts) for parts in means]


def _aggregated(ours: TaskResult, theirs: TaskResult, random: np.random.Generator) -> np.ndarray:
    units, differences = list(ours.answers), []
    assert ours.aggregate and ours.factor is not None
    for _ in range(_SLOW_DRAWS):
        sample = [units[k] for k in random.integers(0, len(units), len(units))]
        our_value, their_value = (ours.aggregate([result.answers[u] for u in sample]) for result in (ours, theirs))
        differences.append((our_value - their_value) * ours.factor)
    return np.array(differences)


def _mcnemar(ours: TaskResult, theirs: TaskResult) -> float:
    """Of the questions that only one model has right, how even is the split?"""
    from scipy.stats import binomtest

    better = sum(ours.answers[unit][0] > theirs.answers[unit][0] for unit in ours.answers)
    worse = sum(ours.answers[unit][0] < theirs.answers[unit][0] for unit in ours.answers)
    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
