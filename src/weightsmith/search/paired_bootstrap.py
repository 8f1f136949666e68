"""What chance makes of the difference between two models that were asked the same."""

from __future__ import annotations

import numpy as np

from weightsmith.search.objectives import Answers

DRAWS = 10_000


def drawn_differences(mine: Answers, its: Answers, random: np.random.Generator) -> np.ndarray:
    """`mine` minus `its`, per unit of size, with questions drawn anew, the same for both: float64 of shape (DRAWS,)."""
    numbers = sorted(mine)
    sizes = np.array([mine[n][1] for n in numbers])
    gaps = np.array([mine[n][0] - its[n][0] for n in numbers])
    picked = random.integers(0, len(numbers), (DRAWS, len(numbers)), dtype=np.int32)
    return gaps[picked].sum(1) / sizes[picked].sum(1)
