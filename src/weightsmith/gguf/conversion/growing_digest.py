"""The SHA-256 of a file while it is written: its parts are read again, from the page cache, in order, as soon as they
are there."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Any

from weightsmith.files.system_calls import read_at

_PIECE = 1 << 22


class GrowingDigest:
    """`ends`: where each part of the file ends, in order. In a `with` block, which ends when all of it is hashed, or
    with an exception."""

    def __init__(self, fd: int, ends: Sequence[int]) -> None:
        self._fd, self._ends = fd, ends
        self._there = [threading.Event() for _ in ends]
        self._stopped, self._hash = False, hashlib.sha256()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def written(self, part: int) -> None:
        """Part number `part` is in the file."""
        self._there[part].set()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def __enter__(self) -> GrowingDigest:
        self._thread.start()
        return self

    def __exit__(self, exception_type: Any, *_: object) -> None:
        self._stopped = exception_type is not None
        for event in self._there if self._stopped else ():
            event.set()
        self._thread.join()

    def _follow(self) -> None:
        position, memory = 0, bytearray(_PIECE)
        for event, end in zip(self._there, self._ends, strict=True):
            event.wait()
            while position < end and not self._stopped:
                view = memoryview(memory)[: min(_PIECE, end - position)]
                position += read_at(self._fd, view, position)
                self._hash.update(view)
