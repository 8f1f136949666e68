"""Which elements of a task vector are kept: by magnitude, without the outliers, at random, or at random by rank in the row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from weightsmith.methods.magnitude_threshold import Threshold, kth_largest
from weightsmith.methods.method import Scan
from weightsmith.methods.random_stream import below, random_numbers

_NOTHING, _EVERYTHING = np.float32(0), np.float32(np.inf)
BY_CHANCE = ("random", "ranked")
if TYPE_CHECKING:
    import torch

Given = dict[str, Any]  # one model's parameters


@dataclass(frozen=True)
class Kept:
    """How one task vector is thinned, and the factor that restores its l1 norm (`rescale`). `low` and `high` bound the
    magnitudes that are kept, `high` excluded; `key` is the stream of random numbers."""

    kind: str  # all, between, random, ranked
    low: np.float32 = _NOTHING
    high: np.float32 = _EVERYTHING
    key: int = 0
    density: float = 1.0
    epsilon: float = 0.0
    factor: float = 1.0
    bits: dict[int, np.ndarray] | None = None  # where chance has decided already: first element -> a bit for each

    def mask(self, delta: torch.Tensor, start: int, width: int) -> torch.Tensor:
        """Which elements of `delta`, the stretch from `start` on of a tensor with rows of `width`, are kept: bool."""
        import torch

        size = delta.abs()
        if self.kind == "between":
            # NaN and infinities are kept, to be seen
            return ~((size < float(self.low)) | ((size >= float(self.high)) & (size < torch.inf)))
        if self.kind == "random":
            return self._random(delta, start) < below(self.density)
        if self.kind == "ranked":
            ranks = np.concatenate([_doubled_ranks(row) for row in size.cpu().numpy().reshape(-1, width)])
            return self._random(delta, start) < torch.from_numpy(self.bounds(width)[ranks].astype(np.int64)).to(
                delta.device
            )
        return torch.ones_like(delta, dtype=torch.bool)

    def _random(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        import torch

        return torch.from_numpy(random_numbers(self.key, start, delta.numel()).astype(np.int64)).to(delta.device)

    def bounds(self, width: int) -> np.ndarray:
        """uint32 [2 width - 1]: for each rank, doubled, the number that a random one must be below."""
        shares = (self.density - self.epsilon) + np.arange(2 * width - 1) / max(1, width - 1) * self.epsilon
        return np.minimum(np.rint(shares * 2**32), 2**32 - 1).astype(np.uint32)


def _doubled_ranks(row: np.ndarray) -> np.ndarray:
    """Rank of each element from 0, twice it, so that equal ones can share the mean of theirs."""
    ordered = np.sort(row)
    return np.searchsorted(ordered, row, "left") + np.searchsorted(ordered, row, "right") - 1


class Sparsifier(Protocol):
    """How a method thins task vectors."""

    row_wise: bool

    def survey(self, scan: Scan, base: int, given: dict[int, Given]) -> tuple[dict[int, Kept], int]:
        """(for each input what is kept of it, elements kept or dropped by a tie at a bound)."""
        ...


class ByMagnitude:
    """The k = max(1, int(density * n)) largest magnitudes, and with them any that equal the smallest kept one: mergekit drops
    some of those, whichever its sort puts last."""

    row_wise = False

    def survey(self, scan: Scan, base: int, given: dict[int, Given]) -> tuple[dict[int, Kept], int]:
        thinned = {i: max(1, int(own["density"] * scan.numel)) for i, own in given.items() if own["density"] < 1}
        if not thinned or not scan.numel:
            return {}, 0
        bounds = kth_largest(scan, base, list(thinned.items()))
        kept = {i: Kept("between", low=bound.magnitude) for i, bound in zip(thinned, bounds, strict=True)}
        return kept, sum(bound.ties for bound in bounds)


class WithoutOutliers:
    """Breadcrumbs: the int(gamma * n) largest magnitudes are dropped, and of the rest the int(density * n) largest kept."""

    row_wise = False

    def survey(self, scan: Scan, base: int, given: dict[int, Given]) -> tuple[dict[int, Kept], int]:
        wanted: list[tuple[int, int]] = []
        places: dict[int, tuple[int | None, int | None]] = {}
        empty: dict[int, Kept] = {}
        for i, own in given.items():
            if own["density"] >= 1 or not scan.numel:
                continue
            kept, dropped = int(own["density"] * scan.numel), int(own["gamma"] * scan.numel)
            dropped = min(dropped, scan.numel - kept)  # the density comes first, as in mergekit
            if not kept:
                empty[i] = Kept("between", high=_NOTHING)
                continue
            low = high = None
            if kept + dropped < scan.numel:
                low = len(wanted)
                wanted.append((i, kept + dropped))
            if dropped:
                high = len(wanted)
                wanted.append((i, dropped))
            places[i] = low, high
        bounds = kth_largest(scan, base, wanted) if wanted else []
        found = {i: self._kept(bounds, low, high) for i, (low, high) in places.items()}
        return found | empty, sum(bound.ties for bound in bounds)

    def _kept(self, bounds: list[Threshold], low: int | None, high: int | None) -> Kept:
        return Kept(
            "between",
            low=bounds[low].magnitude if low is not None else _NOTHING,
            high=bounds[high].magnitude if high is not None else _EVERYTHING,
        )


class AtRandom:
    """DARE: each element is kept with the probability `density`."""

    row_wise = False

    def survey(self, scan: Scan, base: int, given: dict[int, Given]) -> tuple[dict[int, Kept], int]:
        thinned = {i: own["density"] for i, own in given.items() if own["density"] < 1}
        return {i: Kept("random", key=scan.streams[i], density=density) for i, density in thinned.items()}, 0


class ByRankAtRandom:
    """DELLA: the smallest element of a row is kept with the probability density - epsilon, the largest with density + epsilon,
    those between by their rank; equal ones share the mean of their ranks. A tensor of one dimension is one row."""

    row_wise = True

    def survey(self, scan: Scan, base: int, given: dict[int, Given]) -> tuple[dict[int, Kept], int]:
        return {
            i: Kept("ranked", key=scan.streams[i], density=own["density"], epsilon=own["epsilon"])
            for i, own in given.items()
            if own["density"] < 1
        }, 0
