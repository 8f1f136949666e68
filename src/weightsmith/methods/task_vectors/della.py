"""DELLA: drop elements of task vectors at random, small ones more often, by their rank in the row."""

from __future__ import annotations

from weightsmith.blocks.block import Scan
from weightsmith.methods.method import Parameter
from weightsmith.methods.task_vectors.sparsify import ModelParameters, Selection
from weightsmith.methods.task_vectors.task_vector_method import TaskVectorMethod, task_vector_parameters

_EPSILON = Parameter(
    "epsilon",
    float,
    "non_base",
    "the smallest element of a row is kept with probability density - epsilon, the largest with density + epsilon",
    default=0.15,
)


class ByRankAtRandom:
    """DELLA: the smallest element of a row is kept with the probability density - epsilon, the largest with density +
    epsilon, those between by their rank; equal ones share the mean of their ranks. A tensor of one dimension is one
    row."""

    row_wise = True

    def select(self, scan: Scan, base: int, parameters: dict[int, ModelParameters]) -> tuple[dict[int, Selection], int]:
        return {
            i: Selection("ranked", key=scan.streams[i], density=values["density"], epsilon=values["epsilon"])
            for i, values in parameters.items()
            if values["density"] < 1
        }, 0


class Della(TaskVectorMethod):
    """DELLA drops elements of each task vector at random, small ones more often than large ones, then elects a sign per
    element as TIES does. `density - epsilon` and `density + epsilon` must lie between 0 and 1. The paper divides each
    element by the probability that it was kept; as in mergekit, `rescale` restores the l1 norm of the whole task
    vector instead."""

    name = "della"
    title = "DELLA"
    paper = "https://arxiv.org/abs/2406.11617"
    advice = "Like ties, for distinct specialists; in our measurements the two were equal (docs/method-evidence.md)."
    parameters = task_vector_parameters(_EPSILON, normalize=True, rescale=True)
    sparsifier = ByRankAtRandom()
    row_wise = True
    random = True
    elect = True

    def objection(self, settings):
        for i in settings.others:
            density, epsilon = (settings.per_input[i][key] for key in ("density", "epsilon"))
            if epsilon < 0:
                return (
                    f"epsilon {epsilon:g}: must not be negative, or small elements would be kept more often than large "
                    "ones"
                )
            if density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
                return (
                    f"density {density:g} and epsilon {epsilon:g}: density - epsilon and density + epsilon must lie "
                    "between 0 and 1"
                )
        return None


class DellaLinear(Della):
    """DELLA without the election of signs: the thinned task vectors are summed."""

    name = "della_linear"
    title = "Linear DELLA"
    advice = "Like dare_linear: compare it with task_arithmetic, which is simpler, and search the weight first."
    parameters = task_vector_parameters(_EPSILON, normalize=False, rescale=True)
    elect = False
