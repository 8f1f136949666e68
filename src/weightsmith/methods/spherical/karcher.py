"""The Karcher mean: the point on the sphere that is nearest to all models."""

import math

import numpy as np

from weightsmith.blocks.weighted_sum import dot_products, weighted_sum
from weightsmith.methods.method import Method, Parameter, Statistics


class Karcher(Method):
    """The point of the unit sphere whose squared angles to all models add up to the least, times their mean norm
    (Karcher 1977; for models, arXiv 2603.04972). All models count the same, the base among them if the recipe names
    one. The iteration runs on the models' dot products, in float64, so the weights are read twice whatever `max_iter`
    is. As in mergekit, a tensor shorter than `tol` has no direction, and counts in the mean norm only."""

    name = "karcher"
    title = "Karcher mean"
    cost = "each input is read twice"
    paper = "https://arxiv.org/abs/2603.04972"
    advice = "The mean on the sphere for more than two; of fine-tunes of one base the result is close to their mean."
    parameters = (
        Parameter("max_iter", int, "shared", "most steps towards the mean", default=10, at_least=0),
        Parameter("tol", float, "shared", "a shorter step is the last", default=1e-5, at_least=0.0),
    )

    def statistics(self, scan, settings):
        count = len(settings.per_input)
        if count == 1 or not scan.numel:
            return Statistics({"factors": [1.0] * count})
        products = dot_products(scan)
        norms = np.sqrt(products.diagonal())
        tol = settings.shared["tol"]
        valid = np.flatnonzero(norms > tol)
        factors = np.zeros(count)
        if len(valid):
            cosines = products[np.ix_(valid, valid)] / np.outer(norms[valid], norms[valid])
            mean = _mean_on_sphere(cosines, settings.shared["max_iter"], tol)
            factors[valid] = mean / norms[valid] * norms.mean()
        return Statistics({"factors": factors.tolist()})

    def combine(self, block, settings, statistics):
        inputs = block.inputs
        return sum((x * factor for x, factor in zip(inputs, statistics.values["factors"], strict=True)), inputs[0] * 0)

    def fused(self, block, settings, statistics):
        return weighted_sum(block, statistics.values["factors"])


def _mean_on_sphere(cosines: np.ndarray, max_iter: int, tol: float) -> np.ndarray:
    """The Karcher mean of unit vectors, as factors [n] of theirs; `cosines`: their dot products [n, n]."""

    def length(factors: np.ndarray) -> float:
        return math.sqrt(max(0.0, factors @ cosines @ factors))

    share = 1 / len(cosines)
    mean = np.full(len(cosines), share)
    if length(mean) < tol:  # they cancel: any of them is as good a start
        mean = np.eye(len(cosines))[0]
    mean = mean / length(mean)
    for _ in range(max_iter):
        towards = (cosines @ mean).clip(-1, 1)  # of each vector, its dot product with the mean
        angles = np.arccos(towards)
        steps = np.where(angles < tol, 0.0, share * angles / np.maximum(np.sin(angles), np.finfo(float).tiny))
        tangent = steps - (steps @ towards) * mean
        size = length(tangent)
        if size < tol:
            break
        mean = math.cos(size) * mean + math.sin(size) / size * tangent
        mean = mean / length(mean)
    return mean
