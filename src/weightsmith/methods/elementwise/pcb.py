"""PCB: parameters compete within their model and between models, and those that lose are dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from weightsmith.blocks.block import Block
from weightsmith.methods.depth_scaling import DEPTH_SCALING
from weightsmith.methods.method import Method, Parameter
from weightsmith.methods.tensor_settings import Settings
from weightsmith.methods.whole_model import score_passes

if TYPE_CHECKING:
    import torch

_EXTREMES = 1e-4  # share of the magnitudes that is cut off at either end, as in the authors' code
_LEAST = 1e-12
_BOUNDS, _COMPETITION = "magnitudes", "competition"


def _task_vectors(block: Block, settings: Settings) -> torch.Tensor:
    """float32 [models, n], weighted; zero where an input is not finite."""
    inputs = block.inputs
    weights = inputs.new_tensor([settings.per_input[i]["weight"] for i in settings.others])
    return ((inputs[settings.others] - inputs[settings.base_index]) * weights[:, None]).nan_to_num_(0.0, 0.0, 0.0)


def _names(settings: Settings) -> list[str]:
    return [settings.models[i] for i in settings.others]


def _magnitudes(block: Block, settings: Settings) -> Mapping[str, torch.Tensor]:
    return dict(zip(_names(settings), _task_vectors(block, settings).abs_(), strict=True))


def _competing(block: Block, settings: Settings) -> Mapping[str, torch.Tensor]:
    deltas = _task_vectors(block, settings)
    return dict(zip(_names(settings), _competition(deltas, settings), strict=True))


def _found(name: str, deltas: torch.Tensor, settings: Settings) -> torch.Tensor:
    """What the passes found as `name`: float32 [2, models, 1]."""
    return deltas.new_tensor([settings.whole_model[name][model] for model in _names(settings)]).T[:, :, None]


def _clamped(magnitudes: torch.Tensor, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """Magnitudes between the bounds of their model; and these, as 0 to 1 [models, n]."""
    least, most = _found(_BOUNDS, magnitudes, settings)
    clamped = magnitudes.clamp(least, most)
    return clamped, (clamped - least) / (most - least).clamp(min=_LEAST)


def _competition(deltas: torch.Tensor, settings: Settings) -> torch.Tensor:
    """exp(N n^2) tanh(tau_i sum_j tau_j), float32 [models, n]."""
    _, relative = _clamped(deltas.abs(), settings)
    return (len(deltas) * relative**2).exp_() * (deltas * sum(deltas[1:], deltas[0])).tanh_()


class Pcb(Method):
    """Parameter competition balancing. Within a model an element counts by its magnitude n, from 0 to 1, as
    exp(N n^2); between models by whether it goes where their sum goes, tanh(tau_i sum_j tau_j). Of the products the
    share `density` that is largest in the whole model is kept, and is the weight with which the models' elements are
    averaged. Magnitudes are cut off at their 0.01 % and 99.99 % quantiles.

    The authors' code is followed, where tanh has the plain task vectors; the paper writes their normalized ones."""

    name = "pcb"
    title = "PCB"
    paper = "https://arxiv.org/abs/2410.02396"
    advice = (
        "On five skills that interfere its defaults were as good as the best without text; on three that do not, "
        "adding was far better (docs/method-evidence.md)."
    )
    cost = "each input is read five times: the whole model four times before the merge begins"
    parameters = (
        Parameter("weight", float, "non_base", "factor on this model's task vector, before anything else", default=1.0),
        Parameter(
            "density",
            float,
            "shared",
            "share of the elements that is kept",
            default=0.1,
            above=0.0,
            at_most=1.0,
            of_whole_model=True,
        ),
        Parameter("lambda", float, "shared", "factor on the merged task vector", default=1.0),
        *DEPTH_SCALING,
    )
    needs_base = True

    def passes(self, settings):
        return (
            *score_passes(_BOUNDS, _magnitudes, [(_EXTREMES, 0), (1 - _EXTREMES, -1)]),
            *score_passes(_COMPETITION, _competing, [(1 - settings.shared["density"], 0), (1.0, -1)]),
        )

    def combine(self, block, settings, statistics):
        import torch

        inputs, deltas = block.inputs, _task_vectors(block, settings)
        magnitudes, _ = _clamped(deltas.abs(), settings)
        least, most = _found(_COMPETITION, deltas, settings)
        kept = (_competition(deltas, settings) - least).clamp_(min=0) / (most - least).clamp(min=_LEAST)
        parts = deltas.sign() * magnitudes * kept
        merged = sum(parts[1:], parts[0]) / sum(kept[1:], kept[0]).clamp_(min=_LEAST)
        result = inputs[settings.base_index] + merged * (settings.shared["lambda"] * settings.scale)
        return result.where(inputs.isfinite().all(0), torch.nan)
