"""Read a byte range of a file straight into a tensor's memory."""

from __future__ import annotations

import os
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

    def bytes_at(self, offset: int, count: int) -> bytes:
        return os.pread(self._fd, count, offset)
