"""LiNeS: the merged task vector times a factor that grows with the depth of the layer."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from weightsmith.methods.method import Method, Parameter
from weightsmith.methods.tensor_settings import Settings

AUTO = "auto"
_KNOWN = "lines_alpha"

DEPTH_SCALING = (
    Parameter(
        "lines_alpha",
        float,
        "shared",
        "LiNeS: factor on the merged task vector in the first layer, and outside the layers; auto: such that without "
        "lines_beta the merged task vector of the whole model is as long as the mean of the models'",
        default=1.0,
        words=(AUTO,),
    ),
    Parameter(
        "lines_beta",
        float,
        "shared",
        "LiNeS: what is added to that factor from the first layer to the last, linearly",
        default=0.0,
    ),
)


def scaled(settings: Settings) -> Settings:
    """With `scale`, the factor alpha + beta * depth on the merged task vector (arXiv:2410.17146, equation 5), as far as
    it is known yet: an automatic alpha that is not known counts as 1, with beta 0."""
    alpha, beta = settings.shared.get("lines_alpha", 1.0), settings.shared.get("lines_beta", 0.0)
    if alpha == AUTO:
        alpha = settings.whole_model.get(_KNOWN)
        if alpha is None:
            return replace(settings, scale=1.0)
    return replace(settings, scale=alpha + beta * settings.depth)


class MeanLength:
    """The pass that finds the automatic alpha: |mean of the task vectors| / |merged task vector|, over the whole model.

    The paper divides |sum of the task vectors| by their number, which is the same."""

    def __init__(self, method: Method) -> None:
        self._method = method

    def gather(self, scan, settings, totals):
        if settings.shared.get("lines_alpha") != AUTO:
            return
        statistics = self._method.statistics(scan, settings)
        for block in scan.blocks():
            values = block.floats()
            base = values[settings.base_index]
            mean = values[settings.others].mean(0, dtype=np.float64) - base
            if block.device == "cpu":
                merged = self._method.fused(block, settings, statistics)
            else:
                merged = Method.fused(self._method, block, settings, statistics)
            for name, change in (("mean", mean), ("merged", merged.astype(np.float64) - base)):
                with np.errstate(invalid="ignore", over="ignore"):
                    squares = np.square(change)
                totals.add(name, float(squares.sum(where=np.isfinite(squares))))  # others are found when it is merged

    def conclude(self, totals, known):
        merged = totals.sum_of("merged")
        return {_KNOWN: math.sqrt(totals.sum_of("mean") / merged) if merged else 1.0}
