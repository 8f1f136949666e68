"""RAM: what one fine-tune alone changed is kept whole, what several changed is averaged."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from weightsmith.methods.method import Method, Parameter, Statistics

_EPSILON = Parameter(
    "epsilon", float, "shared", "changes of at most this size count as none", default=1e-5, at_least=0.0
)


class Ram(Method):
    """Reinforced agent merging: reinforcement learning changes few elements, and each agent others. An element that
    one model changed by more than `epsilon` gets that change; one that several changed gets the mean of theirs."""

    name = "ram"
    title = "RAM"
    advice = "For models trained by reinforcement learning, which change few elements, and each its own."
    paper = "https://arxiv.org/abs/2601.13572"
    parameters: ClassVar[tuple[Parameter, ...]] = (_EPSILON,)
    needs_base = True

    def combine(self, block, settings, statistics):
        import torch

        inputs = block.inputs
        base = inputs[settings.base_index]
        changes = [inputs[i] - base for i in settings.others]
        changes = [change * (change.abs() > settings.shared["epsilon"]) for change in changes]
        count = sum((change != 0 for change in changes), torch.zeros_like(base))
        factors = self._factors(statistics, len(changes))
        alone = sum((f * change for f, change in zip(factors, changes, strict=True)), torch.zeros_like(base))
        shared = sum(changes, torch.zeros_like(base)) / count.clamp(min=1)
        return base + torch.where(count > 1, shared, alone)

    def _factors(self, statistics: Statistics, count: int) -> list[float]:
        """What each model's own changes are multiplied with."""
        return statistics.values.get("factors", [1.0] * count)


class RamPlus(Ram):
    """RAM with more weight on a model's own changes: each is multiplied with 1 + `r` clip(rho, 0, `alpha`), where rho
    is how many of the elements that the model changed in this tensor others changed too, divided by how many it changed
    alone. As in mergekit, rho is that of one tensor; the authors' code takes it over the whole model."""

    name = "ramplus_tl"
    title = "RAM+, tensor by tensor"
    cost = "each input is read twice"
    parameters = (
        Parameter("r", float, "shared", "how much more weight a model's own changes get", default=0.1),
        Parameter("alpha", float, "shared", "the most that rho counts", default=0.2, at_least=0.0),
        _EPSILON,
    )

    def statistics(self, scan, settings):
        epsilon, others = settings.shared["epsilon"], settings.others
        shared, alone = np.zeros(len(others)), np.zeros(len(others))
        for block in scan.blocks():
            values = block.floats()
            changed = np.abs(values[others] - values[settings.base_index]) > np.float32(epsilon)
            count = changed.sum(axis=0)
            shared += (changed & (count > 1)).sum(axis=1)
            alone += (changed & (count == 1)).sum(axis=1)
        rho = shared / np.maximum(alone, epsilon or 1.0)
        return Statistics({"factors": (1 + settings.shared["r"] * rho.clip(0, settings.shared["alpha"])).tolist()})
