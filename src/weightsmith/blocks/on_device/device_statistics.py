"""What methods have to know of whole tensors, from blocks whose inputs are on a device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from weightsmith.blocks.block import Block

if TYPE_CHECKING:
    import torch

_PIECE = 1 << 22  # elements of float64 at once


def count_magnitudes(
    block: Block, base: int, models: np.ndarray, lows: np.ndarray, steps: np.ndarray, shifts: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """For each of `models`: how many magnitudes of its task vector have bits above a range, and how many are on each
    step of it, int64 [steps]. A range begins at the bits `lows` and has steps of 2**`shifts`."""
    import torch

    inputs = block.inputs
    for model, low, count, shift in zip(*(v.tolist() for v in (models, lows, steps, shifts)), strict=True):
        bits = (inputs[model] - inputs[base]).abs_().view(torch.int32)
        top = low + (count << shift) - 1
        within = bits[(bits >= low) & (bits <= top)].to(torch.int64)
        counts = torch.bincount((within - low) >> shift, minlength=count)
        yield int((bits > top).sum()), counts.cpu().numpy()


def l1_of(delta: torch.Tensor, kept: torch.Tensor) -> tuple[float, float]:
    """The l1 norm of a task vector's stretch, and of the elements that are `kept`."""
    import torch

    size = delta.abs()
    return float(size.sum(dtype=torch.float64)), float((size * kept).sum(dtype=torch.float64))


def dot_products_of(block: Block, minus: int | None) -> np.ndarray:
    """float64 [models, models] of one block, as `dot_products` adds them up."""
    inputs = block.inputs
    if minus is not None:
        inputs -= inputs[minus].clone()
    total = inputs.new_zeros((len(inputs), len(inputs))).double()
    for first in range(0, inputs.shape[1], _PIECE):
        part = inputs[:, first : first + _PIECE].double()
        total += part @ part.T
    return total.cpu().numpy()
