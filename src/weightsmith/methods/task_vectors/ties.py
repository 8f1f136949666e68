"""TIES: trim each task vector, elect a sign per element, average what agrees with it."""

from __future__ import annotations

from weightsmith.blocks.block import Scan
from weightsmith.blocks.kth_largest import kth_largest
from weightsmith.methods.task_vectors.sparsify import ModelParameters, Selection
from weightsmith.methods.task_vectors.task_vector_method import TaskVectorMethod, task_vector_parameters


class ByMagnitude:
    """The k = max(1, int(density * n)) largest magnitudes, and with them any that equal the smallest kept one: mergekit
    drops some of those, whichever its sort puts last."""

    row_wise = False

    def select(self, scan: Scan, base: int, parameters: dict[int, ModelParameters]) -> tuple[dict[int, Selection], int]:
        thinned = {
            i: max(1, int(values["density"] * scan.numel)) for i, values in parameters.items() if values["density"] < 1
        }
        if not thinned or not scan.numel:
            return {}, 0
        bounds = kth_largest(scan, base, list(thinned.items()))
        kept = {i: Selection("between", low=bound.magnitude) for i, bound in zip(thinned, bounds, strict=True)}
        return kept, sum(bound.ties for bound in bounds)


class Ties(TaskVectorMethod):
    """TIES keeps the largest elements of each task vector, elects a sign per element by the weighted sum, and averages
    the elements that have it. As in mergekit, the average divides by the sum of their weights (in the paper, by their
    number)."""

    name = "ties"
    title = "TIES"
    paper = "https://arxiv.org/abs/2306.01708"
    advice = "For distinct specialists of one base; with fine-tunes that overlap, compare it with task_arithmetic."
    parameters = task_vector_parameters(normalize=True, rescale=False)
    sparsifier = ByMagnitude()
    elect = True
