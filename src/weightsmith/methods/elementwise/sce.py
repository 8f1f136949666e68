"""SCE: select the elements that differ most between models, weigh models by how far they moved, erase minorities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from weightsmith.blocks.order_statistics import kth_largest_score
from weightsmith.methods.depth_scaling import DEPTH_SCALING
from weightsmith.methods.method import Method, Parameter, Statistics

if TYPE_CHECKING:
    import torch

_HELD = 1 << 22  # elements of a tensor whose variances are kept, not computed again
_LEAST = 1e-6  # mergekit's bound: a smaller sum of mean squares, or of weights, is not divided by


class Sce(Method):
    """FuseChat's select, calculate, erase: of the task vectors, the share `select_topk` of elements is kept whose
    variance between the models is largest; each model counts by the mean square of what it keeps in this tensor; and
    where signs differ, those of the sum stand alone.

    As in mergekit 0.1.5, the share is one of the elements that vary at all, so one fine-tune with `select_topk` below 1
    gives the base, and mean squares that add up to less than 1e-6 count as equal (the paper divides by them all the
    same). Elements with the variance of the bound are all kept; mergekit keeps those that its sort puts first."""

    name = "sce"
    title = "SCE"
    cost = (
        "each input is read twice, with select_topk below 1 once more, and of a tensor of more than 4 million elements "
        "three times more"
    )
    paper = "https://arxiv.org/abs/2408.07990"
    advice = "Between a mean and ties; no better than either in our measurements (docs/method-evidence.md)."
    parameters = (
        Parameter(
            "select_topk", float, "shared", "share of the elements that vary, which is kept", default=1.0, at_least=0.0
        ),
        Parameter("int8_mask", bool, "shared", "accepted for mergekit's recipes; changes no number", default=False),
        *DEPTH_SCALING,
    )
    needs_base = True

    def statistics(self, scan, settings):
        share, others = settings.shared["select_topk"], settings.others
        values: dict[str, float | list[float]] = {"least": -1.0}
        ties = 0
        if share < 1:
            held = list(self._variances(scan, settings)) if scan.numel <= _HELD else None
            varying = sum(int(v.count_nonzero()) for v in held or self._variances(scan, settings))
            k = int(varying * share)
            if k:
                (bound,) = kth_largest_score(lambda: held or self._variances(scan, settings), [k])
                values["least"], ties = float(bound.value), bound.ties
            else:
                values["least"] = np.inf
        squares = np.zeros(len(others))
        for block in scan.blocks():
            deltas = self._selected(block, settings, values["least"]).double()
            squares += (deltas * deltas).sum(1).cpu().numpy()
        squares /= max(1, scan.numel)
        total = squares.sum()
        weights = squares / total if total >= _LEAST else np.full(len(others), 1 / len(others))
        return Statistics(values | {"weights": weights.astype(np.float32).tolist()}, ties)

    def combine(self, block, settings, statistics):
        import torch

        values = statistics.values
        deltas = self._selected(block, settings, values["least"])
        agree = deltas.sign() == torch.where(deltas.sum(0) >= 0, 1.0, -1.0)
        weights = agree * torch.tensor(values["weights"], device=deltas.device).unsqueeze(1)
        merged = (deltas * weights).sum(0) / weights.sum(0).clamp(min=_LEAST)
        return block.inputs[settings.base_index] + merged * settings.scale

    def _selected(self, block, settings, least):
        """Task vectors [models, n], zero where the variance between them is below `least`."""
        inputs = block.inputs
        deltas = inputs[settings.others] - inputs[settings.base_index]
        return deltas if least < 0 else deltas * (variances(deltas) >= least)

    def _variances(self, scan, settings):
        for block in scan.blocks():
            inputs = block.inputs
            yield variances(inputs[settings.others] - inputs[settings.base_index])


def variances(deltas: torch.Tensor) -> torch.Tensor:
    """float32 [n]: the variance between the models of float32 [models, n]. The numbers are those of torch's `var` on a
    processor, which takes eight times as long: Welford's recurrence in float64 (doi 10.1080/00401706.1962.10490022)."""
    mean = deltas[0].double()
    squares = mean.new_zeros(mean.shape)
    for count, delta in enumerate(deltas[1:], 2):
        apart = delta.double() - mean
        mean = mean + apart / count
        squares += apart * (delta - mean)
    return (squares / len(deltas)).float()
