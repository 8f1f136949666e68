"""TIES: trim each task vector, elect a sign per element, average what agrees with it."""

from weightsmith.methods.sparsify import ByMagnitude
from weightsmith.methods.task_vectors import TaskVectorMethod, task_vector_parameters


class Ties(TaskVectorMethod):
    """https://arxiv.org/abs/2306.01708. As in mergekit the mean divides by the weights that agree (paper: by their number)."""

    name = "ties"
    title = "TIES"
    paper = "https://arxiv.org/abs/2306.01708"
    parameters = task_vector_parameters(normalize=True, rescale=False)
    sparsifier = ByMagnitude()
    elect = True
