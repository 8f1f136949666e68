"""Tensors of a plan computed into memory instead of shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from weightsmith.checkpoint.dtypes import torch_dtypes
from weightsmith.engine.run_tensors import DEFAULT_RUN, OnBytes, RunSettings, Tally, run_tensors
from weightsmith.methods.method import Method
from weightsmith.planning.plan import TensorPlan

if TYPE_CHECKING:
    import torch


def compute_tensors(
    tensors: Sequence[TensorPlan],
    method: Method,
    *,
    into: Mapping[str, torch.Tensor] | None = None,
    threads: int = 1,
    settings: RunSettings = DEFAULT_RUN,
    on_progress: OnBytes | None = None,
    on_tensor: Callable[[str, Tally], None] | None = None,
) -> dict[str, torch.Tensor]:
    """Every tensor in its output dtype, bit for bit what `merge` would write. Those of `into` that have the name, shape
    and dtype, and lie in the processor's memory, are written in place; `on_tensor` as in `run_tensors`. Raises
    MergeError."""
    import torch

    memory = {}
    for tensor in tensors:
        dtype, target = torch_dtypes()[tensor.info.dtype], (into or {}).get(tensor.name)
        fits = (
            target is not None
            and target.device.type == "cpu"
            and target.dtype == dtype
            and target.shape == tensor.info.shape
            and target.is_contiguous()
        )
        memory[tensor.name] = (
            target.detach() if fits and target is not None else torch.empty(tensor.info.shape, dtype=dtype)
        )
    run_tensors(tensors, method, _Memory(memory), threads, on_progress, settings=settings, on_tensor=on_tensor)
    return memory


class _Memory:
    """Takes what a shard on the disk would."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._bytes = {name: _as_bytes(tensor) for name, tensor in tensors.items()}
        self._sizes = {name: tensor.element_size() for name, tensor in tensors.items()}

    def write(self, name: str, start: int, block: np.ndarray) -> None:
        """As ShardWriter.write."""
        stored = block.view(np.uint8)
        begin = start * self._sizes[name]
        self._bytes[name][begin : begin + len(stored)] = stored


def _as_bytes(tensor: torch.Tensor) -> np.ndarray:
    import torch

    return tensor.view(-1).view(torch.uint8).numpy() if tensor.numel() else np.empty(0, np.uint8)
