"""Tensors of a plan computed into memory instead of shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from weightsmith.checkpoint.dtypes import torch_dtypes
from weightsmith.engine.run_tensors import DEFAULT_RUN, OnBytes, RunSettings, Tally, run_tensors
from weightsmith.engine.workers.device_streams import wait_for
from weightsmith.machine import device_names
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
    and dtype are written in place, and the others are where those of `into` are; what a device merges stays there.
    `on_tensor` as in `run_tensors`. Raises MergeError."""
    import torch

    memory = {}
    for tensor in tensors:
        dtype, target = torch_dtypes()[tensor.info.dtype], (into or {}).get(tensor.name)
        if target is None:
            memory[tensor.name] = torch.empty(tensor.info.shape, dtype=dtype)
        elif target.dtype == dtype and target.shape == tensor.info.shape and target.is_contiguous():
            memory[tensor.name] = target.detach()
        else:
            memory[tensor.name] = torch.empty(tensor.info.shape, dtype=dtype, device=target.device)
    on_device = settings.device != "cpu" or any(tensor.device.type != "cpu" for tensor in memory.values())
    writer = _DeviceMemory(memory, settings.device) if on_device else _Memory(memory)
    wait_for(settings.device)  # what is computed with the memory that is written now
    run_tensors(tensors, method, writer, threads, on_progress, settings=settings, on_tensor=on_tensor)
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


class _DeviceMemory:
    """The same of tensors that may be on `device`."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], device: str) -> None:
        import torch

        kinds = {torch.device(name).type for name in device_names(device)}
        self._there = {name for name, tensor in tensors.items() if tensor.device.type in kinds}
        self._bytes = {name: tensor.view(-1).view(torch.uint8) for name, tensor in tensors.items() if tensor.numel()}
        self._sizes = {name: tensor.element_size() for name, tensor in tensors.items()}

    def on_device(self, name: str) -> torch.Tensor | None:
        """As DeviceWriter.on_device."""
        return self._bytes.get(name) if name in self._there else None

    def write(self, name: str, start: int, block: np.ndarray) -> None:
        """As ShardWriter.write."""
        import torch

        stored = torch.from_numpy(block.view(np.uint8))
        begin = start * self._sizes[name]
        self._bytes[name][begin : begin + len(stored)].copy_(stored)


def _as_bytes(tensor: torch.Tensor) -> np.ndarray:
    import torch

    return tensor.view(-1).view(torch.uint8).numpy() if tensor.numel() else np.empty(0, np.uint8)
