"""The k-th largest of scores that are computed block by block and never held whole: exact, in two passes.

The bits of a float32 become an integer of the same order: the first pass counts by its upper half, the second, within
the halves that hold what is looked for, by the lower one. Scores are counted where they are, on a device too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

HALVES = 1 << 16  # values that a half can have
_SIGN = 1 << 31


@dataclass(frozen=True)
class Bound:
    """The smallest score that is kept; `ties`: scores kept beyond those asked for, because they equal it."""

    value: np.float32
    ties: int


def kth_largest_score(scores: Callable[[], Iterable[torch.Tensor]], ranks: Sequence[int]) -> list[Bound]:
    """For each k of `ranks` (from 1) the bound that keeps the k largest scores.

    `scores()` passes over all of them, float32, in blocks of any size; each call gives the same ones. A NaN counts as
    larger than any number.

    >>> blocks = [torch.tensor([3.0, -1.0]), torch.tensor([2.0])]
    >>> [float(bound.value) for bound in kth_largest_score(lambda: blocks, [2, 3])]
    [2.0, -1.0]
    """
    upper = np.zeros(HALVES, np.int64)
    for block in scores():
        upper += count_upper_halves(block)
    at_least = upper[::-1].cumsum()[::-1]  # scores in this bucket and in those above it
    buckets = [int(np.flatnonzero(at_least >= k)[-1]) for k in ranks]
    lower = {bucket: np.zeros(HALVES, np.int64) for bucket in buckets}
    for block in scores():
        for bucket, counts in count_lower_halves(block, lower).items():
            lower[bucket] += counts
    bounds = []
    for k, bucket in zip(ranks, buckets, strict=True):
        kept = at_least[bucket] - upper[bucket] + lower[bucket][::-1].cumsum()[::-1]
        step = int(np.flatnonzero(kept >= k)[-1])
        bounds.append(Bound(score_of(bucket, step), int(kept[step]) - k))
    return bounds


def count_upper_halves(scores: torch.Tensor) -> np.ndarray:
    """int64 [65536]: how many of the float32 `scores` have each upper half."""
    return (_ordered(scores) >> 16).add_(HALVES >> 1).bincount(minlength=HALVES).cpu().numpy()


def count_lower_halves(scores: torch.Tensor, uppers: Iterable[int]) -> dict[int, np.ndarray]:
    """For each of `uppers`, int64 [65536]: how many of the scores with this upper half have each lower one."""
    ordered = _ordered(scores)
    halves, lower = ordered >> 16, ordered & (HALVES - 1)
    counted = {upper: lower[halves == upper - (HALVES >> 1)].bincount(minlength=HALVES) for upper in uppers}
    return {upper: counts.cpu().numpy() for upper, counts in counted.items()}


def score_of(upper: int, lower: int) -> np.float32:
    """The score with these halves."""
    bits = np.uint32((upper << 16 | lower) ^ _SIGN if upper >> 15 else ~(upper << 16 | lower) & 0xFFFFFFFF)
    return bits.view(np.float32)


def _ordered(scores: torch.Tensor) -> torch.Tensor:
    """int32 [n] in the order of the scores; -0 counts as 0."""
    import torch

    bits = (scores.reshape(-1) + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)  # of negative ones the larger magnitude is the smaller number
