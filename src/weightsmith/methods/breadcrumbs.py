"""Model Breadcrumbs: drop the largest elements of task vectors as well as the smallest."""

from weightsmith.methods.method import Parameter
from weightsmith.methods.sparsify import WithoutOutliers
from weightsmith.methods.task_vectors import TaskVectorMethod, task_vector_parameters

_GAMMA = Parameter(
    "gamma", float, "non_base", "share of the task vector, its largest elements, that is dropped", default=0.01
)


class Breadcrumbs(TaskVectorMethod):
    """https://arxiv.org/abs/2312.06795. Elements that equal one at a bound share its fate; mergekit keeps some of them,
    whichever its sort puts first."""

    name = "breadcrumbs"
    title = "Model Breadcrumbs"
    paper = "https://arxiv.org/abs/2312.06795"
    parameters = task_vector_parameters(_GAMMA, normalize=False, rescale=False)
    sparsifier = WithoutOutliers()


class BreadcrumbsTies(Breadcrumbs):
    """Breadcrumbs, then the election of signs of TIES."""

    name = "breadcrumbs_ties"
    title = "Model Breadcrumbs with TIES"
    elect = True
