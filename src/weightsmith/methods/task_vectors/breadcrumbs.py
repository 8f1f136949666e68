"""Model Breadcrumbs: drop the largest elements of task vectors as well as the smallest."""

from __future__ import annotations

from weightsmith.blocks.block import Scan
from weightsmith.blocks.kth_largest import kth_largest
from weightsmith.blocks.threshold import Threshold
from weightsmith.methods.method import Parameter
from weightsmith.methods.task_vectors.sparsify import EVERYTHING, NOTHING, ModelParameters, Selection
from weightsmith.methods.task_vectors.task_vector_method import TaskVectorMethod, task_vector_parameters

_GAMMA = Parameter(
    "gamma",
    float,
    "non_base",
    "share of the task vector, its largest elements, that is dropped",
    default=0.01,
    at_least=0,
    at_most=1,
)


class WithoutOutliers:
    """Breadcrumbs: the int(gamma * n) largest magnitudes are dropped, and of the rest the int(density * n) largest
    kept."""

    row_wise = False

    def select(self, scan: Scan, base: int, parameters: dict[int, ModelParameters]) -> tuple[dict[int, Selection], int]:
        queries: list[tuple[int, int]] = []
        bounds_of: dict[int, tuple[int | None, int | None]] = {}
        without_elements: dict[int, Selection] = {}
        for i, values in parameters.items():
            if values["density"] >= 1 or not scan.numel:
                continue
            kept, dropped = int(values["density"] * scan.numel), int(values["gamma"] * scan.numel)
            dropped = min(dropped, scan.numel - kept)  # the density comes first, as in mergekit
            if not kept:
                without_elements[i] = Selection("between", high=NOTHING)
                continue
            low = high = None
            if kept + dropped < scan.numel:
                low = len(queries)
                queries.append((i, kept + dropped))
            if dropped:
                high = len(queries)
                queries.append((i, dropped))
            bounds_of[i] = low, high
        bounds = kth_largest(scan, base, queries) if queries else []
        selections = {i: self._kept(bounds, low, high) for i, (low, high) in bounds_of.items()}
        return selections | without_elements, sum(bound.ties for bound in bounds)

    def _kept(self, bounds: list[Threshold], low: int | None, high: int | None) -> Selection:
        return Selection(
            "between",
            low=bounds[low].magnitude if low is not None else NOTHING,
            high=bounds[high].magnitude if high is not None else EVERYTHING,
        )


class Breadcrumbs(TaskVectorMethod):
    """Model Breadcrumbs drops the largest elements of each task vector (`gamma`) and the smallest (`density`), and sums
    what is left. Elements with the magnitude of a bound are all kept or all dropped; mergekit keeps those that its
    sort puts first."""

    name = "breadcrumbs"
    title = "Model Breadcrumbs"
    paper = "https://arxiv.org/abs/2312.06795"
    advice = (
        "Leaves out the largest changes as well: for fine-tunes with outliers. Search weight and gamma, and "
        "compare it with task_arithmetic."
    )
    parameters = task_vector_parameters(_GAMMA, normalize=False, rescale=False)
    sparsifier = WithoutOutliers()


class BreadcrumbsTies(Breadcrumbs):
    """Breadcrumbs, then the sign election of TIES."""

    name = "breadcrumbs_ties"
    title = "Model Breadcrumbs with TIES"
    advice = (
        "Set `normalize: true`, or search the weight: at weight 1 five fine-tunes that overlap broke the model "
        "(docs/method-evidence.md)."
    )
    elect = True
