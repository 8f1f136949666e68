"""Base plus a weighted sum of task vectors."""

from weightsmith.methods.task_vectors.task_vector_method import TaskVectorMethod, task_vector_parameters


class TaskArithmetic(TaskVectorMethod):
    """https://arxiv.org/abs/2212.04089. `density` does nothing here, as in mergekit."""

    name = "task_arithmetic"
    title = "Task arithmetic"
    paper = "https://arxiv.org/abs/2212.04089"
    parameters = task_vector_parameters(normalize=False, rescale=False)
