"""What a method has to know of the whole model: gathered in passes over all tensors, before the first one is made."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from weightsmith.blocks.block import Block, Scan
from weightsmith.blocks.order_statistics import count_lower_halves, count_upper_halves, score_of

if TYPE_CHECKING:
    import torch

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

    def __call__(self, block: Block, settings: Settings) -> Mapping[str, torch.Tensor]:
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
                totals.count(model, count_upper_halves(own))

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
                for upper, counts in count_lower_halves(own, {upper for upper, _ in wanted[model]}).items():
                    totals.count((model, upper), counts)

    def conclude(self, totals: Totals, known: Mapping[str, Any]) -> dict[str, Any]:
        found = {}
        for model, places in known[self._name].items():
            found[model] = []
            for upper, place in places:
                below = np.cumsum(totals.counts[model, upper])
                lower = int(np.searchsorted(below, place, side="right"))
                found[model].append(float(score_of(upper, lower)))
        return {self._name: found}
