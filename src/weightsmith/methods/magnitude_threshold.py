"""The k-th largest magnitude of tensors that are never held whole: exact, in two passes, without sorting.

A non-negative float32 orders like the integer with the same bits, so a histogram of the upper 16 bits finds the
bucket of the k-th largest, and a second one, of the lower bits within that bucket, finds the value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

_BUCKETS = 1 << 16


@dataclass(frozen=True)
class Threshold:
    """Keep elements whose magnitude bits are at least `bits`: `kept` of them, `kept - k` by a tie at the bound."""

    bits: int
    kept: int
    wanted: int

    @property
    def ties(self) -> int:
        return self.kept - self.wanted if self.bits else 0  # zeros kept or dropped are zeros


def magnitude_bits(values: torch.Tensor) -> torch.Tensor:
    """float32 to int32 with the same order as |values|."""
    return values.abs().view(torch.int32)


def kth_largest(passes: Callable[[], Iterator[list[torch.Tensor]]], counts: list[int]) -> list[Threshold]:
    """For series j of 1-d float32 blocks, the bound that keeps its `counts[j]` largest magnitudes. Two passes."""
    upper = torch.zeros(len(counts), _BUCKETS, dtype=torch.int64)
    for series in passes():
        for j, block in enumerate(series):
            upper[j] += torch.bincount(magnitude_bits(block) >> 16, minlength=_BUCKETS)
    found = [_walk_down(upper[j], k) for j, k in enumerate(counts)]
    lower = torch.zeros_like(upper)
    for series in passes():
        for j, block in enumerate(series):
            bits = magnitude_bits(block)
            lower[j] += torch.bincount(bits[(bits >> 16) == found[j][0]] & 0xFFFF, minlength=_BUCKETS)
    result = []
    for j, (bucket, above) in enumerate(found):
        low, over = _walk_down(lower[j], counts[j] - above)
        result.append(Threshold(bucket << 16 | low, above + over + int(lower[j, low]), counts[j]))
    return result


def _walk_down(histogram: torch.Tensor, k: int) -> tuple[int, int]:
    """(bucket of the k-th largest, number of elements in higher buckets)."""
    from_top = histogram.flip(0).cumsum(0)
    index = int(torch.searchsorted(from_top, k))
    return len(histogram) - 1 - index, int(from_top[index - 1]) if index else 0
