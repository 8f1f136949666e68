"""What a method has to know of the whole model: gathered in passes over all tensors, before the first one is made."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from weightsmith.blocks.block import Block, Scan

if TYPE_CHECKING:
    from weightsmith.methods.tensor_settings import Settings


class Totals:
    """Sums over all tensors. They are exact, so that neither the order of the tensors nor the threads matter.

    >>> totals = Totals()
    >>> for value in (1e100, 1.0, -1e100):
    ...     totals.add("x", value)
    >>> totals.sum_of("x")
    1.0
    """

    def __init__(self) -> None:
        self.counts: dict[Hashable, Any] = {}  # whole numbers, or arrays of them
        self._addends: dict[Hashable, list[float]] = defaultdict(list)

    def count(self, key: Hashable, number: int | np.ndarray) -> None:
        self.counts[key] = self.counts[key] + number if key in self.counts else number

    def add(self, key: Hashable, value: float) -> None:
        self._addends[key].append(value)

    def sum_of(self, key: Hashable) -> float:
        return math.fsum(self._addends[key])

    def include(self, other: Totals) -> None:
        for key, number in other.counts.items():
            self.count(key, number)
        for key, values in other._addends.items():
            self._addends[key] += values


class Pass(Protocol):
    """One pass over the whole model."""

    def gather(self, scan: Scan, settings: Settings, totals: Totals) -> None:
        """Add what one tensor contributes. Earlier passes are in `settings.whole_model`."""
        ...

    def conclude(self, totals: Totals, known: Mapping[str, Any]) -> dict[str, Any]:
        """What is known now; `known`: from earlier passes."""
        ...


class RankedScores(Protocol):
    """For each model a score of every element, whose order in the whole model matters."""

    def __call__(self, block: Block, settings: Settings) -> Mapping[str, np.ndarray]:
        """Model -> float32 [n], none of them NaN."""
        ...


def score_passes(name: str, scores: RankedScores, places: Sequence[tuple[float, int]]) -> tuple[Pass, Pass]:
    """Passes that find, for each model, the scores at the places `int(n * share) + offset` (pairs of share and offset)
    in the order of all n scores of the model, exactly: known afterwards as `name`, model -> list of floats."""
    return _UpperHalves(name, scores, places), _LowerHalves(name, scores)


class _UpperHalves:
    """Counts the upper 16 bits of the scores, which say which 65,536th of all numbers each place is in."""

    def __init__(self, name: str, scores: RankedScores, places: Sequence[tuple[float, int]]) -> None:
        self._name, self._scores, self._places = name, scores, places

    def gather(self, scan: Scan, settings: Settings, totals: Totals) -> None:
        for block in scan.blocks():
            for model, own in self._scores(block, settings).items():
                totals.count(model, np.bincount(_ordered(own) >> 16, minlength=1 << 16))

    def conclude(self, totals: Totals, known: Mapping[str, Any]) -> dict[str, Any]:
        found = {}
        for model, histogram in totals.counts.items():
            below, found[model] = np.cumsum(histogram), []
            for share, offset in self._places:
                place = min(max(int(below[-1] * share) + offset, 0), int(below[-1]) - 1)
                upper = int(np.searchsorted(below, place, side="right"))
                found[model].append((upper, place - (int(below[upper - 1]) if upper else 0)))
        return {self._name: found}


class _LowerHalves:
    """Counts the lower 16 bits of the scores that share their upper ones with a place."""

    def __init__(self, name: str, scores: RankedScores) -> None:
        self._name, self._scores = name, scores

    def gather(self, scan: Scan, settings: Settings, totals: Totals) -> None:
        wanted = settings.whole_model[self._name]
        for block in scan.blocks():
            for model, own in self._scores(block, settings).items():
                ordered = _ordered(own)
                for upper in {upper for upper, _ in wanted[model]}:
                    lower = ordered[ordered >> 16 == upper] & 0xFFFF
                    totals.count((model, upper), np.bincount(lower, minlength=1 << 16))

    def conclude(self, totals: Totals, known: Mapping[str, Any]) -> dict[str, Any]:
        found = {}
        for model, places in known[self._name].items():
            found[model] = []
            for upper, place in places:
                below = np.cumsum(totals.counts[model, upper])
                lower = int(np.searchsorted(below, place, side="right"))
                found[model].append(_score_of(upper << 16 | lower))
        return {self._name: found}


def _ordered(scores: np.ndarray) -> np.ndarray:
    """uint32 in the order of the float32 scores."""
    bits = np.ascontiguousarray(scores + np.float32(0)).view(np.uint32)  # -0 is 0
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _score_of(ordered: int) -> float:
    bits = ordered ^ (1 << 31) if ordered >> 31 else ~ordered & 0xFFFFFFFF
    return float(np.uint32(bits).view(np.float32))
