"""DARE: drop elements of task vectors at random, and make the rest as much larger."""

from __future__ import annotations

from weightsmith.blocks.block import Scan
from weightsmith.methods.task_vectors.sparsify import ModelParameters, Selection
from weightsmith.methods.task_vectors.task_vector_method import TaskVectorMethod, task_vector_parameters


class AtRandom:
    """DARE: each element is kept with the probability `density`."""

    row_wise = False

    def select(self, scan: Scan, base: int, parameters: dict[int, ModelParameters]) -> tuple[dict[int, Selection], int]:
        thinned = {i: values["density"] for i, values in parameters.items() if values["density"] < 1}
        return {i: Selection("random", key=scan.streams[i], density=density) for i, density in thinned.items()}, 0


class DareLinear(TaskVectorMethod):
    """DARE drops elements of each task vector at random and sums what is left. The paper divides the rest by `density`;
    as in mergekit, `rescale` restores the l1 norm exactly instead."""

    name = "dare_linear"
    title = "Linear DARE"
    paper = "https://arxiv.org/abs/2311.03099"
    advice = (
        "With few models as good as task_arithmetic, which is simpler: what it drops at random it makes up for by "
        "its factor. Search the weight first."
    )
    parameters = task_vector_parameters(normalize=False, rescale=True)
    sparsifier = AtRandom()
    random = True


class DareTies(DareLinear):
    """DARE, then the sign election of TIES."""

    name = "dare_ties"
    title = "DARE TIES"
    advice = (
        "Set `normalize: true`, or search the weight: at weight 1 five fine-tunes that overlap broke the model "
        "(docs/method-evidence.md)."
    )
    elect = True
