"""Base plus a weighted sum of task vectors."""

from weightsmith.methods.task_vectors.task_vector_method import TaskVectorMethod, task_vector_parameters


class TaskArithmetic(TaskVectorMethod):
    """The base plus the weighted sum of the task vectors. As in mergekit, `density` is accepted and changes nothing."""

    name = "task_arithmetic"
    title = "Task arithmetic"
    paper = "https://arxiv.org/abs/2212.04089"
    cost = "each input is read once, block by block"
    advice = (
        "The one to beat: of six methods on public fine-tunes of four language models it alone gained reliably "
        "(arXiv 2511.21437, not measured here). Search one weight for all models first."
    )
    parameters = task_vector_parameters(normalize=False, rescale=False)
