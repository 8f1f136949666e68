"""A magnitude below which elements of a task vector are dropped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Threshold:
    """Keeps elements whose magnitude bits are at least `bits`: `kept` of them, `kept - requested` by ties."""

    bits: int
    kept: int
    requested: int

    @property
    def ties(self) -> int:
        return self.kept - self.requested if self.bits else 0  # zeros kept or dropped are zeros

    @property
    def magnitude(self) -> np.float32:
        """The smallest magnitude that is kept."""
        return np.uint32(self.bits).view(np.float32)
