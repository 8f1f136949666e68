"""PCB: parameters compete within their model and between models, and those that lose are dropped."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from weightsmith.blocks.block import Block
from weightsmith.methods.depth_scaling import DEPTH_SCALING
from weightsmith.methods.method import Method, Parameter
from weightsmith.methods.tensor_settings import Settings
from weightsmith.methods.whole_model import score_passes

_EXTREMES = 1e-4  # share of the magnitudes that is cut off at either end, as in the authors' code
_LEAST = 1e-12
_BOUNDS, _COMPETITION = "magnitudes", "competition"


def _task_vectors(block: Block, settings: Settings) -> np.ndarray:
    """float32 [models, n], weighted; zero where an input is not finite."""
    values = block.floats()
    weights = np.array([settings.per_input[i]["weight"] for i in settings.others], np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        deltas = (values[settings.others] - values[settings.base_index]) * weights[:, None]
    return np.nan_to_num(deltas, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def _names(settings: Settings) -> list[str]:
    return [settings.models[i] for i in settings.others]


def _magnitudes(block: Block, settings: Settings) -> Mapping[str, np.ndarray]:
    return dict(zip(_names(settings), np.abs(_task_vectors(block, settings)), strict=True))


def _competing(block: Block, settings: Settings) -> Mapping[str, np.ndarray]:
    deltas = _task_vectors(block, settings)
    return dict(zip(_names(settings), _competition(deltas, settings), strict=True))


def _clamped(magnitudes: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Magnitudes between the bounds of their model; and these, as 0 to 1 [models, n]."""
    bounds = np.array([settings.whole_model[_BOUNDS][name] for name in _names(settings)], np.float32)[:, :, None]
    clamped = magnitudes.clip(bounds[:, 0], bounds[:, 1])
    return clamped, (clamped - bounds[:, 0]) / np.maximum(bounds[:, 1] - bounds[:, 0], np.float32(_LEAST))


def _competition(deltas: np.ndarray, settings: Settings) -> np.ndarray:
    """exp(N n^2) tanh(tau_i sum_j tau_j), float32 [models, n]."""
    _, relative = _clamped(np.abs(deltas), settings)
    return np.exp(len(deltas) * relative**2) * np.tanh(deltas * deltas.sum(0))


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

        inputs = block.inputs
        deltas = _task_vectors(block, settings)
        magnitudes, _ = _clamped(np.abs(deltas), settings)
        least, most = np.array([settings.whole_model[_COMPETITION][name] for name in _names(settings)], np.float32).T
        kept = (_competition(deltas, settings) - least[:, None]).clip(0) / np.maximum(most - least, _LEAST)[:, None]
        merged = (np.sign(deltas) * magnitudes * kept).sum(0) / np.maximum(kept.sum(0), np.float32(_LEAST))
        factor = settings.shared["lambda"] * settings.scale
        result = inputs[settings.base_index] + torch.from_numpy(merged).to(inputs.device) * factor
        return result.where(inputs.isfinite().all(0), torch.nan)
