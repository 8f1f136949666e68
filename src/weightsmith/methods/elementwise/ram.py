"""RAM: what one fine-tune alone changed is kept whole, what several changed is averaged."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from weightsmith.blocks.block import Scan
from weightsmith.methods.depth_scaling import DEPTH_SCALING
from weightsmith.methods.method import Method, Parameter, Statistics
from weightsmith.methods.tensor_settings import Settings

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
    parameters: ClassVar[tuple[Parameter, ...]] = (_EPSILON, *DEPTH_SCALING)
    needs_base = True

    def combine(self, block, settings, statistics):
        import torch

        inputs = block.inputs
        base = inputs[settings.base_index]
        changes = [inputs[i] - base for i in settings.others]
        changes = [change * (change.abs() > settings.shared["epsilon"]) for change in changes]
        count = sum((change != 0 for change in changes), torch.zeros_like(base))
        factors = self._factors(statistics, settings)
        alone = sum((f * change for f, change in zip(factors, changes, strict=True)), torch.zeros_like(base))
        shared = sum(changes, torch.zeros_like(base)) / count.clamp(min=1)
        return base + torch.where(count > 1, shared, alone) * settings.scale

    def _factors(self, statistics: Statistics, settings: Settings) -> list[float]:
        """What each model's own changes are multiplied with."""
        return [1.0] * len(settings.others)


_OF_PLUS = (
    Parameter("r", float, "shared", "how much more weight a model's own changes get", default=0.1),
    Parameter("alpha", float, "shared", "the most that rho counts", default=0.2, at_least=0.0),
    _EPSILON,
    *DEPTH_SCALING,
)


class RamPlusOfTensors(Ram):
    """RAM with more weight on a model's own changes: each is multiplied with 1 + `r` clip(rho, 0, `alpha`), where rho
    is how many of the elements that the model changed in this tensor others changed too, divided by how many it changed
    alone. As in mergekit, rho is that of one tensor; `ramplus` takes it over the whole model, as the paper does."""

    name = "ramplus_tl"
    title = "RAM+, tensor by tensor"
    cost = "each input is read twice"
    parameters = _OF_PLUS

    def statistics(self, scan, settings):
        shared, alone = _changed_elements(scan, settings)
        rho = shared / np.maximum(alone, settings.shared["epsilon"] or 1.0)
        return Statistics({"factors": _weights_of_own(rho, settings)})

    def _factors(self, statistics, settings):
        return statistics.values["factors"]


class _Overlap:
    """The pass that finds how much of what each model changed others changed too."""

    def gather(self, scan, settings, totals):
        shared, alone = _changed_elements(scan, settings)
        for i, own_shared, own_alone in zip(settings.others, shared, alone, strict=True):
            totals.count((settings.models[i], "shared"), int(own_shared))
            totals.count((settings.models[i], "alone"), int(own_alone))

    def conclude(self, totals, known):
        models = {model for model, _ in totals.counts}
        return {"rho": {m: totals.counts[m, "shared"] / max(1, totals.counts[m, "alone"]) for m in models}}


class RamPlus(Ram):
    """RAM with more weight on a model's own changes: each is multiplied with 1 + `r` clip(rho, 0, `alpha`), where rho
    is how many of the elements that the model changed in the whole model others changed too, divided by how many it
    changed alone. The paper is followed; the defaults are those of mergekit's `ramplus_tl`, which takes rho of each
    tensor by itself. The authors' code has r 0.2 and alpha 1."""

    name = "ramplus"
    title = "RAM+"
    cost = "each input is read twice: the whole model once before the merge begins"
    parameters = _OF_PLUS

    def passes(self, settings):
        return (_Overlap(),)

    def _factors(self, statistics, settings):
        rho = settings.whole_model["rho"]
        return _weights_of_own(np.array([rho[settings.models[i]] for i in settings.others]), settings)


def _changed_elements(scan: Scan, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """For each model, how many elements it and others changed, and how many it alone."""
    epsilon, others = settings.shared["epsilon"], settings.others
    shared, alone = np.zeros(len(others)), np.zeros(len(others))
    for block in scan.blocks():
        values = block.floats() if block.device == "cpu" else block.inputs
        changed = abs(values[others] - values[settings.base_index]) > np.float32(epsilon).item()
        count = changed.sum(0)
        for total, mine in ((shared, changed & (count > 1)), (alone, changed & (count == 1))):
            total += np.asarray(mine.sum(1).tolist())
    return shared, alone


def _weights_of_own(rho: np.ndarray, settings: Settings) -> list[float]:
    return (1 + settings.shared["r"] * rho.clip(0, settings.shared["alpha"])).tolist()
