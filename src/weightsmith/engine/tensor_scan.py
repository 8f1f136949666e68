"""The inputs of one output tensor in blocks, read again at each pass into the same memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from copy import copy
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from weightsmith.blocks.block import Block
from weightsmith.blocks.convert import DTYPE_CODES
from weightsmith.blocks.random_stream import stream_key
from weightsmith.blocks.threshold import Threshold
from weightsmith.checkpoint.checkpoint import rows_together
from weightsmith.checkpoint.dtypes import numpy_dtypes
from weightsmith.engine.workers.device_inputs import DeviceInputs
from weightsmith.engine.workers.device_streams import DEVICE_BLOCK, wait_for_copies
from weightsmith.engine.workers.on_threads import Stop
from weightsmith.planning.plan import TensorPlan

if TYPE_CHECKING:
    import torch

BLOCK = 1 << 19  # elements: larger ones leave the cache, smaller ones have the threads wait for each other
_CHUNK = 1 << 10  # elements of a sample that are read at once


class Stopped(Exception):
    """Another tensor failed, or the user interrupted."""


class Bounds(Protocol):
    """Bounds of task vectors that were found before."""

    def find(self, tensor: TensorPlan, base: int, number: int, k: int) -> Threshold | None:
        """The bound of the k largest magnitudes of `tensor`'s input `number` minus input `base`."""
        ...


@runtime_checkable
class LowRank(Protocol):
    """A checkpoint of a base and adapters."""

    def low_rank(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """As `AdaptedCheckpoint.low_rank`."""
        ...


class Buffers(threading.local):
    """Memory that a thread uses for one tensor after the other; pinned, so that a device copies it by itself, where
    `device` is a GPU of NVIDIA's or AMD's."""

    def __init__(self, device: str = "cpu") -> None:
        self._pinned = device.startswith("cuda")
        self._rows, self._out = np.empty((0, 0), np.uint8), np.empty(0, np.float32)
        self._stored = np.empty(0, np.uint8)

    def take(self, rows: int, elements: int, item: int = 4) -> tuple[np.ndarray, np.ndarray]:
        """(uint8 [rows, room for elements of `item` bytes], float32 [elements]); what was taken before is
        overwritten."""
        if len(self._out) < elements:
            self._out = np.empty(elements, np.float32)
        width = max(len(self._out) * item, self._rows.shape[1])
        if len(self._rows) < rows or self._rows.shape[1] < width:
            self._rows = np.empty((0, 0), np.uint8)  # let go first: of pinned memory there is little
            self._rows = self._bytes(rows * width).reshape(rows, width)
        return self._rows[:rows], self._out[:elements]

    @property
    def nbytes(self) -> int:
        """Bytes of the calling thread's buffers."""
        return self._rows.nbytes + self._out.nbytes + self._stored.nbytes

    def out(self, count: int) -> np.ndarray:
        """uint8 [count]: the bytes of a result as it is stored."""
        if len(self._stored) < count:
            self._stored = self._bytes(count)
        return self._stored[:count]

    def _bytes(self, count: int) -> np.ndarray:
        if not self._pinned:
            return np.empty(count, np.uint8)
        import torch

        return torch.empty(count, dtype=torch.uint8, pin_memory=True).numpy()


class TensorScan:
    """See `blocks.block.Scan`. `read_seconds` is the time spent in reading."""

    def __init__(
        self,
        tensor: TensorPlan,
        buffers: Buffers,
        stop: Stop,
        *,
        row_wise: bool,
        seed: int,
        block: int | None = None,
        device: str = "cpu",
        bounds: Bounds | None = None,
        device_inputs: DeviceInputs | None = None,
        part: tuple[int, int] | None = None,
    ) -> None:
        """`part`: the elements of the tensor that are scanned as if they were all, begin and end."""
        infos = [source.model.checkpoint.tensors[source.tensor] for source in tensor.sources]
        self.begin, end = part or (0, tensor.info.numel)
        self.numel = end - self.begin
        self.width = infos[0].shape[-1] if infos[0].shape else 1
        whole = self.numel == tensor.info.numel or not self.width
        self.shape = infos[0].shape if whole else (self.numel // self.width, self.width)
        self.streams = tuple(stream_key(seed, i, tensor.name) for i in range(len(tensor.sources)))
        self.read_seconds, self._first = 0.0, 0
        self._range: tuple[int, int] | None = None
        self._whole = whole
        self.tensor, self._buffers, self._stop, self._device, self._bounds = tensor, buffers, stop, device, bounds
        self._device_inputs = device_inputs
        block = block or (BLOCK if device == "cpu" else DEVICE_BLOCK)
        self._kept: Block | None = None
        together = rows_together(self.width) * self.width or 1
        unit = together if together <= block else self.width if row_wise else 1
        self._step = max(1, block // unit) * unit
        # As stored, where kernels know the dtype, so that nothing is converted twice.
        stored_dtypes = [info.dtype if info.dtype in ("F16", "BF16") and not info.computed else "F32" for info in infos]
        self._dtypes = [numpy_dtypes()[dtype] for dtype in stored_dtypes]
        self._item = 4 if device == "cpu" else max(dtype.itemsize for dtype in self._dtypes)
        self._dtype_codes = np.array([DTYPE_CODES[dtype] for dtype in stored_dtypes])

    def shorten(self, count: int, *, to_end: bool) -> None:
        """Shorten the scan to about `count` elements, whole rows, the first ones or the last ones."""
        count = min(self.numel, max(1, count // max(1, self.width)) * self.width)
        self._whole = self._whole and count == self.numel
        self._first, self.numel = self.numel - count if to_end else 0, count

    def apart(self) -> TensorScan:
        """The same scan with memory of its own, for reading while a block of this one is in use."""
        other = copy(self)
        other._buffers, other._range, other._kept = Buffers(), None, None
        return other

    def restrict(self, first: int, stop: int) -> None:
        """Let `blocks` give elements `first` to `stop` of the part alone, under their own places."""
        self._range = first, stop

    def blocks(self) -> Iterator[Block]:
        begin, end = self._range or (0, self.numel)
        if self._kept and (begin, end) == (0, self.numel):
            yield self._kept
            return
        for start in range(begin, end, self._step):
            if self._stop.is_set():
                raise Stopped
            began = time.perf_counter()
            count = min(self._step, end - start)
            first = self.begin + self._first + start
            wait_for_copies(self._device)
            rows, out = self._buffers.take(len(self._dtypes), count, self._item)
            there = self._on_device(first, count)
            for number, (source, row, dtype) in enumerate(zip(self.tensor.sources, rows, self._dtypes, strict=True)):
                if number not in there:
                    into = row[: count * dtype.itemsize].view(dtype)
                    source.model.checkpoint.read(source.tensor, first, first + count, into)
            base = self.tensor.settings.base
            block = Block(self.begin + start, rows, self._dtype_codes, out, self._device, base, there)
            self._keep_on_device(block, first)
            self.read_seconds += time.perf_counter() - began
            if self._device != "cpu" and count == self.numel:
                self._kept = block
            yield block

    def _on_device(self, first: int, count: int) -> dict[int, torch.Tensor]:
        """By input, what is there from an earlier merge."""
        if self._device_inputs is None:
            return {}
        found = (self._device_inputs.find(source, first, count) for source in self.tensor.sources)
        return {number: stored for number, stored in enumerate(found) if stored is not None}

    def _keep_on_device(self, block: Block, first: int) -> None:
        if self._device_inputs is None:
            return
        for source, stored in zip(self.tensor.sources, block.stored, strict=True):
            self._device_inputs.keep(source, first, stored)

    def known_bound(self, base: int, number: int, k: int) -> Threshold | None:
        whole = not self.tensor.experts
        return self._bounds.find(self.tensor, base, number, k) if self._bounds and whole else None

    def low_rank(self, number: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        base, source = self.tensor.sources[self.tensor.settings.base_index], self.tensor.sources[number]
        adapted, files = source.model.checkpoint, base.model.files
        on_base = source.model.files[: len(files)] == files and not base.model.lora_ranks
        return adapted.low_rank(source.tensor) if isinstance(adapted, LowRank) and on_base and self._whole else None

    def sample(self, count: int) -> np.ndarray:
        if self.numel <= count:
            starts, length = np.zeros(1, np.int64), self.numel
        else:
            chunks, length = count // _CHUNK, _CHUNK
            starts = (self.numel - _CHUNK) * np.arange(chunks) // (chunks - 1)
        if self._device != "cpu" and self.numel <= self._step and not self._range:
            (block,) = self.blocks()  # which stays there
            return block.sample(starts, length)
        began = time.perf_counter()
        sampled = np.empty((len(self._dtypes), len(starts) * length), np.float32)
        for number, start in enumerate(starts.tolist()):
            self._read(start, sampled[:, number * length : (number + 1) * length])
        self.read_seconds += time.perf_counter() - began
        return sampled

    def _read(self, start: int, rows: np.ndarray) -> None:
        start += self.begin + self._first
        for source, row in zip(self.tensor.sources, rows, strict=True):
            source.model.checkpoint.read(source.tensor, start, start + len(row), row)
