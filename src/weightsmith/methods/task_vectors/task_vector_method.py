"""The family of task arithmetic: fine-tune minus base, thinned, weighted, summed, and added to the base again.

Its members differ in how task vectors are thinned (`sparsify.py`) and whether they must agree on a sign (TIES). They
are mergekit's `GeneralizedTaskArithmeticMerge`, with its parameters and defaults.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from weightsmith.blocks.block import Block, Scan
from weightsmith.blocks.random_stream import random_numbers
from weightsmith.methods.depth_scaling import DEPTH_SCALING
from weightsmith.methods.method import Method, Parameter, Statistics, cancellation_warning
from weightsmith.methods.task_vectors.fused import NEARLY_ZERO, combine_fused, compile_parts, l1_norms
from weightsmith.methods.task_vectors.sparsify import Choices, Selection, Sparsifier
from weightsmith.methods.tensor_settings import Settings

if TYPE_CHECKING:
    import torch

_REMEMBERED_ELEMENTS = 1 << 30  # of a tensor whose random choices are noted: 128 MB of bits for each model
_L1_EPSILON = 1e-7  # and for an l1 norm that is not restored


def task_vector_parameters(*more: Parameter, normalize: bool, rescale: bool) -> tuple[Parameter, ...]:
    """Those that all members have, and `more`."""
    return (
        Parameter("weight", float, "non_base", "factor on this model's task vector"),
        Parameter(
            "density", float, "non_base", "share of the task vector that is kept", default=1.0, above=0.0, at_most=1.0
        ),
        *more,
        Parameter("normalize", bool, "shared", "divide by the sum of the weights that took part", default=normalize),
        Parameter("lambda", float, "shared", "factor on the merged task vector", default=1.0),
        Parameter("rescale", bool, "shared", "restore each thinned task vector's l1 norm", default=rescale),
        Parameter("int8_mask", bool, "shared", "accepted for mergekit's recipes; changes no number", default=False),
        *DEPTH_SCALING,
    )


class TaskVectorMethod(Method):
    """out = base + lambda * sum(w_i thin(x_i - base)), divided by sum(w_i) with `normalize`.

    With `elect`, only elements that have the sign of the weighted sum take part, a zero sum counts as plus, and
    `normalize` divides by the weights that took part.
    """

    needs_base = True
    cost = "each input is read once, and once or twice more where something is thinned by rank or rescaled"
    sparsifier: ClassVar[Sparsifier | None] = None
    elect: ClassVar[bool] = False

    def warning(self, settings: Settings) -> str | None:
        if self.elect or not settings.shared["normalize"]:
            return None  # an election divides by the weights that agree
        return cancellation_warning([settings.per_input[i]["weight"] for i in settings.others])

    def compile_ahead(self) -> None:
        if self.random:
            random_numbers(0, 0, 1)
        compile_parts(elect=self.elect)

    def statistics(self, scan: Scan, settings: Settings) -> Statistics:
        if self.sparsifier is None:
            return Statistics()
        parameters = {i: settings.per_input[i] for i in settings.others}
        selections, ties = self.sparsifier.select(scan, settings.base_index, parameters)
        if selections and settings.shared["rescale"]:
            selections = _with_factors(scan, settings.base_index, selections)
        return Statistics({"width": scan.width, "selections": selections}, ties)

    def combine(self, block: Block, settings: Settings, statistics: Statistics) -> torch.Tensor:
        import torch

        inputs = block.inputs
        base = inputs[settings.base_index]
        deltas, weights = [], []
        for i in settings.others:
            delta = inputs[i] - base
            if selections := statistics.values.get("selections", {}).get(i):
                delta = delta * selections.mask(delta, block.start, statistics.values["width"]) * selections.factor
            weights.append(settings.per_input[i]["weight"])
            deltas.append(delta * weights[-1])
        total = sum(deltas, torch.zeros_like(base))
        if self.elect:
            sign = torch.where(total >= 0, 1.0, -1.0)
            agree = [delta.sign() == sign for delta in deltas]
            mixed = sum((d * a for d, a in zip(deltas, agree, strict=True)), torch.zeros_like(base))
            divisor = sum((w * a for w, a in zip(weights, agree, strict=True)), torch.zeros_like(base))
            divisor = torch.where(divisor == 0, 1.0, divisor)
        else:
            mixed, divisor = total, sum(weights) if abs(sum(weights)) >= NEARLY_ZERO else 1.0
        if settings.shared["normalize"]:
            mixed = mixed / divisor
        return base + mixed * (settings.shared["lambda"] * settings.scale)

    def fused(self, block: Block, settings: Settings, statistics: Statistics) -> np.ndarray:
        values = statistics.values
        return combine_fused(block, settings, values.get("selections", {}), values.get("width", 1), elect=self.elect)


def _with_factors(scan: Scan, base: int, selections: dict[int, Selection]) -> dict[int, Selection]:
    """Each with the factor by which thinning shortened it in l1; what chance decided is noted, if that takes no more
    memory than a few blocks."""
    sums = {i: [0.0, 0.0] for i in selections}
    choices: dict[int, dict[int, Choices]] = {i: {} for i in selections}
    for block in scan.blocks():
        for i, selection in selections.items():
            before, after, chosen = l1_norms(block, base, i, selection, scan.width)
            sums[i][0] += before
            sums[i][1] += after
            if isinstance(chosen, np.ndarray):
                if scan.numel <= _REMEMBERED_ELEMENTS:
                    choices[i][block.start] = np.packbits(chosen)
            elif chosen is not None and scan.numel == len(chosen):
                choices[i][block.start] = chosen
    return {
        i: replace(
            selection, factor=sums[i][0] / sums[i][1] if min(sums[i]) >= _L1_EPSILON else 1.0, chosen=choices[i] or None
        )
        for i, selection in selections.items()
    }
