"""Which elements of a task vector are kept: by magnitude, without the outliers, at random, or at random by rank in the
row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from weightsmith.blocks.block import Scan
from weightsmith.blocks.on_device.device_random import device_random_numbers
from weightsmith.blocks.on_device.device_ranks import doubled_ranks
from weightsmith.blocks.random_stream import below

NOTHING, EVERYTHING = np.float32(0), np.float32(np.inf)
BY_CHANCE = ("random", "ranked")
if TYPE_CHECKING:
    import torch

ModelParameters = dict[str, Any]  # one model's parameters
Choices: TypeAlias = "np.ndarray | torch.Tensor"  # of a stretch: uint8, a bit for each element, or on a device bool


@dataclass(frozen=True)
class Selection:
    """How one task vector is thinned, and the factor that restores its l1 norm (`rescale`). `low` and `high` bound the
    magnitudes that are kept, `high` excluded; `key` is the stream of random numbers."""

    rule: str  # all, between, random, ranked
    low: np.float32 = NOTHING
    high: np.float32 = EVERYTHING
    key: int = 0
    density: float = 1.0
    epsilon: float = 0.0
    factor: float = 1.0
    chosen: dict[int, Choices] | None = None  # where chance has decided already, by first element

    def mask(self, delta: torch.Tensor, start: int, width: int) -> torch.Tensor:
        """Which elements of `delta`, the stretch from `start` on of a tensor with rows of `width`, are kept: bool."""
        import torch

        if isinstance(chosen := (self.chosen or {}).get(start), torch.Tensor):
            return chosen
        size = delta.abs()
        if self.rule == "between":
            # NaN and infinities are kept, to be seen
            return ~((size < float(self.low)) | ((size >= float(self.high)) & (size < torch.inf)))
        if self.rule == "random":
            return self._random(delta, start) < below(self.density)
        if self.rule == "ranked":
            bounds = torch.from_numpy(self.bounds(width).astype(np.int64)).to(delta.device)
            return self._random(delta, start) < bounds[doubled_ranks(size.view(-1, width)).view(-1)]
        return torch.ones_like(delta, dtype=torch.bool)

    def _random(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        return device_random_numbers(self.key, start, delta.numel(), delta.device)

    def bounds(self, width: int) -> np.ndarray:
        """uint32 [2 width - 1]: for each rank, doubled, the number that a random one must be below."""
        shares = (self.density - self.epsilon) + np.arange(2 * width - 1) / max(1, width - 1) * self.epsilon
        return np.minimum(np.rint(shares * 2**32), 2**32 - 1).astype(np.uint32)


class Sparsifier(Protocol):
    """How a method thins task vectors."""

    row_wise: bool

    def select(self, scan: Scan, base: int, parameters: dict[int, ModelParameters]) -> tuple[dict[int, Selection], int]:
        """(for each input what is kept of it, elements kept or dropped by a tie at a bound)."""
        ...
