"""Whether a candidate is clearly behind the best one, on the questions that both have answered.

Successive halving over samples: a candidate is asked a quarter of the questions, then half of them, then all; after
each it continues only if it is not behind by more than chance explains (https://arxiv.org/abs/1502.07943; paired, as in
racing, Maron and Moore 1997).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from weightsmith.evaluation.task import Answers, mean
from weightsmith.recipe_search.objectives import Objective

LEAST = 30  # questions before anything is said
_SHARES = (0.25, 0.5, 1.0)
_SIGMAS = 2.0


def stages(counts: Sequence[int]) -> list[list[int]]:
    """How many questions of each objective are asked by the end of each stage; the first stage has `LEAST` of them
    together, as far as there are so many."""
    total = sum(counts)
    shares = sorted({min(1.0, max(share, LEAST / total)) for share in _SHARES}) if total else [1.0]
    return [[min(count, math.ceil(count * share)) for count in counts] for share in shares]


def behind(
    objectives: Sequence[Objective], ours: Sequence[Answers], best: Sequence[Mapping[int, tuple[float, float]]]
) -> bool:
    """Whether `ours` is worse than `best` by more than two standard errors of the paired difference, on what both have
    answered."""
    difference, variance, count = 0.0, 0.0, 0
    for objective, our_answers, best_answers in zip(objectives, ours, best, strict=True):
        common = [number for number in our_answers if number in best_answers]
        if len(common) < 2:
            continue
        sizes = sum(our_answers[number][1] for number in common) / len(common)
        differences = [(our_answers[number][0] - best_answers[number][0]) / sizes for number in common]
        mean_of_pairs = sum(differences) / len(differences)
        sample_variance = sum((gap - mean_of_pairs) ** 2 for gap in differences) / (len(differences) - 1)
        sign = objective.weight * (1 if objective.higher_is_better else -1)
        mean_difference = mean({number: our_answers[number] for number in common}) - mean(
            {number: best_answers[number] for number in common}
        )
        difference += sign * mean_difference
        variance += objective.weight**2 * sample_variance / len(differences)
        count += len(common)
    return count >= LEAST and difference + _SIGMAS * math.sqrt(variance) < 0
