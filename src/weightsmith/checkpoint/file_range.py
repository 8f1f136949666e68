"""Read a byte range of a file straight into a tensor's memory."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from weightsmith.errors import CheckpointError

if TYPE_CHECKING:
    import torch


class RangeFile:
    """An open file whose ranges any thread can read (positional reads share no cursor)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be opened: {error.strerror}") from error
        self.size = os.fstat(self._fd).st_size

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def read_into(self, offset: int, out: torch.Tensor) -> None:
        """Fill the 1-d contiguous tensor `out` with the bytes at `offset`."""
        import torch

        view = memoryview(out.view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]
        done = 0
        while done < len(view):
            count = os.preadv(self._fd, [view[done:]], offset + done)
            if count == 0:
                raise CheckpointError(f"{self.path}: the file became shorter while it was read")
            done += count

    def read_as(self, offset: int, dtype: torch.dtype, out: torch.Tensor) -> None:
        """Fill `out`, 1-d of any dtype, with as many elements of `dtype` at `offset`, converted."""
        if out.dtype == dtype:
            return self.read_into(offset, out)
        raw = _memory.take(len(out), dtype)
        self.read_into(offset, raw)
        out.copy_(raw)

    def bytes_at(self, offset: int, count: int) -> bytes:
        return os.pread(self._fd, count, offset)


class _Memory(threading.local):
    """What a thread reads into before it is converted; new memory for each read would cost more than the read."""

    def __init__(self) -> None:
        self._bytes: torch.Tensor | None = None

    def take(self, elements: int, dtype: torch.dtype) -> torch.Tensor:
        import torch

        needed = elements * dtype.itemsize
        if self._bytes is None or self._bytes.numel() < needed:
            self._bytes = torch.empty(needed, dtype=torch.uint8)
        return self._bytes[:needed].view(dtype)


_memory = _Memory()
