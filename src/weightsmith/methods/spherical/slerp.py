"""Spherical interpolation between the base and one other model."""

import math

import numpy as np

from weightsmith.blocks.weighted_sum import dot_products, weighted_sum
from weightsmith.methods.method import Method, Parameter, Statistics

NORM_EPSILON = 1e-8
COLLINEAR = 0.9995  # above this |cosine| the interpolation is linear


class Slerp(Method):
    """Spherical interpolation (Shoemake 1985): `t` is 0 at the base and 1 at the other model. As in mergekit, the angle
    is the one between the flattened tensors, and the coefficients apply to the tensors as they are. Nearly parallel
    tensors are interpolated linearly."""

    name = "slerp"
    title = "SLERP"
    paper = "https://dl.acm.org/doi/10.1145/325334.325242"
    advice = "For two models, with or without a common base; a gradient of `t` gives each its layers."
    parameters = (Parameter("t", float, "shared", "position between the base (0) and the other model (1)"),)
    needs_base = True
    inputs = (2, 2)
    cost = "each input is read twice"

    def statistics(self, scan, settings):
        products = dot_products(scan) if scan.numel else np.zeros((2, 2))
        norms = [n if (n := math.sqrt(products[i, i])) > NORM_EPSILON else 1.0 for i in range(2)]
        return Statistics({"cosine": max(-1.0, min(1.0, products[0, 1] / (norms[0] * norms[1])))})

    def combine(self, block, settings, statistics):
        of_base, of_other = self._coefficients(settings, statistics)
        inputs = block.inputs
        base = inputs[settings.base_index].mul_(of_base)
        return base.add_(inputs[1 - settings.base_index], alpha=of_other)

    def fused(self, block, settings, statistics):
        of_base, of_other = self._coefficients(settings, statistics)
        return weighted_sum(block, [of_base, of_other] if settings.base_index == 0 else [of_other, of_base])

    def _coefficients(self, settings, statistics) -> tuple[float, float]:
        t, cosine = settings.shared["t"], statistics.values["cosine"]
        if abs(cosine) > COLLINEAR:
            return 1 - t, t
        angle = math.acos(cosine)
        return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
