"""Writing into the page cache at its full speed.

The kernel copies with one instruction whose speed depends on how source and destination lie to each other: where their
addresses differ by a little, modulo a page, it is up to five times slower. So bytes go through a small buffer that lies
as the file does.
"""

from __future__ import annotations

import ctypes
import os
import threading

import numpy as np

from weightsmith.files.system_calls import write_at

_PAGE, _PIECE = 4096, 1 << 18  # a piece stays in the second-level cache


class _Memory(threading.local):
    def __init__(self) -> None:
        whole = np.empty(_PIECE + 2 * _PAGE, np.uint8)
        start = -whole.ctypes.data % _PAGE
        self.pages = whole[start : start + _PIECE + _PAGE]


_memory = _Memory()
_library = ctypes.CDLL(None) if os.name == "posix" else None
_START_WRITING = 2  # SYNC_FILE_RANGE_WRITE: begin, do not wait


def aligned_write(fd: int, data: np.ndarray, offset: int) -> None:
    """All of `data` (uint8, contiguous) at `offset` of a file. Raises OSError."""
    for start in range(0, len(data), _PIECE):
        part = data[start : start + _PIECE]
        first = (offset + start) % _PAGE
        through = _memory.pages[first : first + len(part)]
        through[:] = part
        write_at(fd, through.data, offset + start)


def begin_writeback(fd: int, offset: int, count: int) -> None:
    """Have the disk begin with these bytes now, where the system can be asked to, so that less is left for fsync."""
    if hasattr(_library, "sync_file_range"):
        _library.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(count), _START_WRITING)
