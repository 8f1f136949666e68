"""Read a byte range of a file straight into an array's memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from weightsmith.checkpoint.dtypes import convert, numpy_dtypes
from weightsmith.errors import CheckpointError, is_plain_name, shown
from weightsmith.files.inputs.read_input import open_regular
from weightsmith.files.system_calls import bytes_at, read_at


class RangeFile:
    """An open file whose ranges any thread can read (positional reads share no cursor)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = open_regular(path)
        self.size = os.fstat(self._fd).st_size

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # at the end of a process `os` is gone
        if hasattr(self, "_fd"):
            close(self._fd)

    def read_into(self, offset: int, out: np.ndarray) -> None:
        """Fill the 1-d contiguous array `out` with the bytes at `offset`."""
        view = out.view(np.uint8).data
        done = 0
        while done < len(view):
            count = read_at(self._fd, view[done:], offset + done)
            if count == 0:
                raise CheckpointError(f"{self.path}: the file became shorter while it was read", path=self.path)
            done += count

    def read_as(self, offset: int, dtype: str, out: np.ndarray) -> None:
        """Fill `out`, 1-d of any dtype, with as many elements of `dtype` at `offset`, converted."""
        stored = numpy_dtypes()[dtype]
        if out.dtype == stored:
            return self.read_into(offset, out)
        raw = _memory.take(len(out), stored)
        self.read_into(offset, raw)
        convert(raw, out)

    def bytes_at(self, offset: int, count: int) -> bytes:
        return bytes_at(self._fd, count, offset)


def check_name(path: Path, name: str) -> None:
    """Raises CheckpointError for the name of a tensor that no writer gives it."""
    if not is_plain_name(name):
        raise CheckpointError(
            f"{path}: a tensor's name has {len(name):,} characters, or some that cannot be printed: {shown(name)}; "
            "download it again",
            path=path,
        )


class _Memory(threading.local):
    """What a thread reads into before it is converted; new memory for each read would cost more than the read."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def take(self, elements: int, dtype: np.dtype) -> np.ndarray:
        needed = elements * dtype.itemsize
        if len(self._bytes) < needed:
            self._bytes = np.empty(needed, np.uint8)
        return self._bytes[:needed].view(dtype)


_memory = _Memory()
