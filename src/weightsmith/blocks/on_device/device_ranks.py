"""Ranks of elements within their rows, found on the device that holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def doubled_ranks(sizes: torch.Tensor) -> torch.Tensor:
    """int64 [rows, width]: twice the rank of each magnitude in its row, from 0; equal ones share the mean of theirs.
    `sizes`: float32 [rows, width], not negative; they are ordered by their bits, so that NaN are the largest."""
    import torch

    bits = sizes.contiguous().view(torch.int32)
    ordered = bits.sort(dim=1).values
    return torch.searchsorted(ordered, bits) + torch.searchsorted(ordered, bits, right=True) - 1
