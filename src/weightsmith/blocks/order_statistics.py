"""The k-th largest of scores that are computed block by block and never held whole: exact, in two passes.

The bits of a float32 become an integer of the same order: the first pass counts by its upper half, the second, within
the halves that hold what is looked for, by the lower one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

_HALF = 16
_SIGN = np.uint32(1 << 31)


@dataclass(frozen=True)
class Bound:
    """The smallest score that is kept; `ties`: scores kept beyond those asked for, because they equal it."""

    value: np.float32
    ties: int


def kth_largest_score(scores: Callable[[], Iterable[np.ndarray]], ranks: Sequence[int]) -> list[Bound]:
    """For each k of `ranks` (from 1) the bound that keeps the k largest scores.

    `scores()` passes over all of them, float32, in blocks of any size; each call gives the same ones. A NaN counts as
    larger than any number.

    >>> blocks = [np.array([3, -1], np.float32), np.array([2], np.float32)]
    >>> [float(bound.value) for bound in kth_largest_score(lambda: blocks, [2, 3])]
    [2.0, -1.0]
    """
    upper = np.zeros(1 << _HALF, np.int64)
    for block in scores():
        upper += np.bincount(_ordered(block) >> _HALF, minlength=len(upper))
    at_least = upper[::-1].cumsum()[::-1]  # scores in this bucket and in those above it
    buckets = [int(np.flatnonzero(at_least >= k)[-1]) for k in ranks]
    lower = {bucket: np.zeros(1 << _HALF, np.int64) for bucket in buckets}
    for block in scores():
        keys = _ordered(block)
        for bucket, counts in lower.items():
            counts += np.bincount(keys[keys >> _HALF == bucket] & ((1 << _HALF) - 1), minlength=len(counts))
    bounds = []
    for k, bucket in zip(ranks, buckets, strict=True):
        kept = at_least[bucket] - upper[bucket] + lower[bucket][::-1].cumsum()[::-1]
        step = int(np.flatnonzero(kept >= k)[-1])
        bounds.append(Bound(_score((bucket << _HALF) + step), int(kept[step]) - k))
    return bounds


def _ordered(block: np.ndarray) -> np.ndarray:
    """int64, in the order of the scores; -0 counts as 0."""
    bits = (np.ascontiguousarray(block, np.float32).reshape(-1) + np.float32(0)).view(np.uint32)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN).astype(np.int64)


def _score(key: int) -> np.float32:
    bits = np.uint32(key)
    return (bits ^ _SIGN if bits & _SIGN else ~bits).view(np.float32)
