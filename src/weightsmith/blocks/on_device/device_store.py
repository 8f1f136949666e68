"""Results as they are stored, rounded on the device that computed them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from weightsmith.blocks.convert import BF16, F16, F32, F64

if TYPE_CHECKING:
    import torch

_INFINITE = 0x7F800000  # bits


def device_store(
    values: torch.Tensor, round_to: int, dtype_code: int, out: np.ndarray | torch.Tensor
) -> tuple[int, int]:
    """As `blocks.convert.store`, from [n] on a device: `out` (uint8, of numpy or on the device) gets the bytes, and the
    numbers are those that it returns."""
    import torch

    values = values.to(torch.float32).contiguous()
    sizes = values.view(torch.int32) & 0x7FFFFFFF
    finite = sizes < _INFINITE
    largest = torch.where(finite, sizes, 0).max()
    counts = torch.stack([(~finite).sum(), largest.to(torch.int64)])
    dtypes = {F32: torch.float32, F16: torch.float16, BF16: torch.bfloat16, F64: torch.float64}
    stored = values.to(dtypes[round_to]).to(dtypes[dtype_code])
    (torch.from_numpy(out) if isinstance(out, np.ndarray) else out).copy_(stored.view(torch.uint8))
    not_finite, most = counts.tolist()
    return not_finite, most
