"""Spherical interpolation between the base and one other model."""

import math

import torch

from weightsmith.methods.method import Method, Parameter, Statistics

NORM_EPSILON = 1e-8
COLLINEAR = 0.9995  # above this |cosine| the interpolation is linear


class Slerp(Method):
    """Shoemake 1985, https://dl.acm.org/doi/10.1145/325334.325242. t = 0 is the base, t = 1 the other model.

    As in mergekit, the angle is that of the flattened tensors and the coefficients apply to the unnormalized ones.
    """

    name = "slerp"
    title = "SLERP"
    paper = "https://dl.acm.org/doi/10.1145/325334.325242"
    parameters = (Parameter("t", float, "shared", "position between the base (0) and the other model (1)"),)
    needs_base = True
    inputs = (2, 2)

    def statistics(self, scan, settings):
        squares, product = [0.0, 0.0], 0.0
        for block in scan.blocks():
            a, b = block.inputs
            squares[0] += torch.dot(a, a).item()
            squares[1] += torch.dot(b, b).item()
            product += torch.dot(a, b).item()
        norms = [n if (n := math.sqrt(square)) > NORM_EPSILON else 1.0 for square in squares]
        return Statistics({"cosine": max(-1.0, min(1.0, product / (norms[0] * norms[1])))})

    def combine(self, block, settings, statistics):
        t, cosine = settings.shared["t"], statistics.values["cosine"]
        if abs(cosine) > COLLINEAR:
            of_base, of_other = 1 - t, t
        else:
            angle = math.acos(cosine)
            of_base, of_other = (math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle))
        base = block.inputs[settings.base_index].mul_(of_base)
        return base.add_(block.inputs[1 - settings.base_index], alpha=of_other)
