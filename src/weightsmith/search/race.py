"""Is a candidate clearly behind the best one, on the questions that both have answered?

Successive halving over samples: a candidate is asked a quarter of the questions, then half of them, then all; after each it goes on only
if it is not behind by more than chance explains (https://arxiv.org/abs/1502.07943; paired, as in racing, Maron and Moore 1997).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from weightsmith.search.objectives import Answers, Objective, point

LEAST = 30  # questions before anything is said
_SHARES = (0.25, 0.5, 1.0)
_SIGMAS = 2.0


def stages(counts: Sequence[int]) -> list[list[int]]:
    """How many questions of each objective are asked by the end of each stage; the first stage has `LEAST` of them together, as far as
    there are so many."""
    total = sum(counts)
    shares = sorted({min(1.0, max(share, LEAST / total)) for share in _SHARES}) if total else [1.0]
    return [[min(count, math.ceil(count * share)) for count in counts] for share in shares]


def behind(
    objectives: Sequence[Objective], ours: Sequence[Answers], best: Sequence[Mapping[int, tuple[float, float]]]
) -> bool:
    """Whether `ours` is worse than `best` by more than two standard errors of the paired difference, on what both have answered."""
    difference, variance, count = 0.0, 0.0, 0
    for objective, mine, its in zip(objectives, ours, best, strict=True):
        common = [number for number in mine if number in its]
        if len(common) < 2:
            continue
        sizes = sum(mine[number][1] for number in common) / len(common)
        gaps = [(mine[number][0] - its[number][0]) / sizes for number in common]
        mean = sum(gaps) / len(gaps)
        spread = sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1)
        sign = objective.weight * (1 if objective.higher_is_better else -1)
        shown = point({number: mine[number] for number in common}) - point({number: its[number] for number in common})
        difference += sign * shown
        variance += objective.weight**2 * spread / len(gaps)
        count += len(common)
    return count >= LEAST and difference + _SIGMAS * math.sqrt(variance) < 0
