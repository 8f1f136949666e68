"""DARE: drop elements of task vectors at random, and make the rest as much larger."""

from weightsmith.methods.sparsify import AtRandom
from weightsmith.methods.task_vectors import TaskVectorMethod, task_vector_parameters


class DareLinear(TaskVectorMethod):
    """https://arxiv.org/abs/2311.03099. The paper divides by `density`; mergekit, and so we, restore the l1 norm exactly."""

    name = "dare_linear"
    title = "Linear DARE"
    paper = "https://arxiv.org/abs/2311.03099"
    parameters = task_vector_parameters(normalize=False, rescale=True)
    sparsifier = AtRandom()
    random = True


class DareTies(DareLinear):
    """DARE, then the election of signs of TIES."""

    name = "dare_ties"
    title = "DARE TIES"
    elect = True
