"""What chance makes of the difference between two models that were asked the same."""

from __future__ import annotations

import numpy as np

from weightsmith.evaluate.compare import drawn_means
from weightsmith.search.objectives import Answers


def drawn_differences(mine: Answers, its: Answers, random: np.random.Generator) -> np.ndarray:
    """`mine` minus `its`, per unit of size, with questions drawn anew, the same for both: float64 of shape (DRAWS,)."""
    numbers = sorted(mine)
    sizes = np.array([mine[n][1] for n in numbers])
    gaps = np.array([mine[n][0] - its[n][0] for n in numbers])
    return drawn_means(gaps, sizes, random)
