"""The inputs of one output tensor as blocks of float32, read again at each pass into the same memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import torch

from weightsmith.methods.method import Block
from weightsmith.methods.random_stream import stream_key
from weightsmith.recipe.plan import TensorPlan

BLOCK = 1 << 19  # elements: larger ones leave the cache, smaller ones have the threads wait for each other
_CHUNK = 1 << 10  # elements of a sample that are read at once


class Stopped(Exception):
    """Another tensor failed, or the user interrupted."""


class Buffers(threading.local):
    """Memory that a thread uses for one tensor after the other."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def take(self, rows: int, elements: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(float32 [rows, elements], float32 [elements]); what was taken before is overwritten."""
        needed = (rows + 1) * elements
        if self._memory.numel() < needed:
            self._memory = torch.empty(needed)
        return self._memory[: rows * elements].view(rows, elements), self._memory[rows * elements : needed]


class TensorScan:
    """See `methods.method.Scan`. `read_seconds` is the time spent in reading and converting."""

    def __init__(
        self,
        tensor: TensorPlan,
        buffers: Buffers,
        stop: threading.Event,
        *,
        row_wise: bool,
        seed: int,
        block: int = BLOCK,
    ) -> None:
        shape = tensor.sources[0].model.checkpoint.tensors[tensor.sources[0].tensor].shape
        self.numel = tensor.info.numel
        self.width = shape[-1] if shape else 1
        self.streams = tuple(stream_key(seed, i, tensor.name) for i in range(len(tensor.sources)))
        self.read_seconds = 0.0
        self._tensor, self._buffers, self._stop = tensor, buffers, stop
        self._step = max(1, block // self.width) * self.width if row_wise and self.width else block

    def blocks(self) -> Iterator[Block]:
        for start in range(0, self.numel, self._step):
            if self._stop.is_set():
                raise Stopped
            began = time.perf_counter()
            count = min(self._step, self.numel - start)
            inputs, out = self._buffers.take(len(self._tensor.sources), count)
            self._read(start, inputs)
            self.read_seconds += time.perf_counter() - began
            yield Block(start, inputs, out)

    def sample(self, count: int) -> torch.Tensor:
        began = time.perf_counter()
        if self.numel <= count:
            found = torch.empty(len(self._tensor.sources), self.numel)
            self._read(0, found)
        else:
            chunks = count // _CHUNK
            found = torch.empty(len(self._tensor.sources), chunks * _CHUNK)
            for i in range(chunks):
                start = (self.numel - _CHUNK) * i // (chunks - 1)
                self._read(start, found[:, i * _CHUNK : (i + 1) * _CHUNK])
        self.read_seconds += time.perf_counter() - began
        return found

    def _read(self, start: int, rows: torch.Tensor) -> None:
        for source, row in zip(self._tensor.sources, rows, strict=True):
            source.model.checkpoint.read(source.tensor, start, start + len(row), row)
