"""Bootstrap draws of the difference between two models that answered the same questions."""

from __future__ import annotations

import numpy as np

from weightsmith.evaluation.paired_tests import bootstrap_means
from weightsmith.recipe_search.objectives import Answers


def drawn_differences(ours: Answers, theirs: Answers, random: np.random.Generator) -> np.ndarray:
    """`ours` minus `theirs`, per unit of size, with questions drawn anew, the same for both: float64 of shape
    (DRAWS,)."""
    numbers = sorted(ours)
    sizes = np.array([ours[n][1] for n in numbers])
    differences = np.array([ours[n][0] - theirs[n][0] for n in numbers])
    return bootstrap_means(differences, sizes, random)
