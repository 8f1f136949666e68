"""How much memory this process and those that it started hold at most, while something is done."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import psutil

_SECONDS = 0.3  # between two looks


class PeakMemory:
    """`bytes`: the most that was seen."""

    def __init__(self) -> None:
        self.bytes = 0
        self._process = psutil.Process()

    def look(self) -> None:
        """Pages that several processes share are counted once, where the system tells (Linux)."""
        total = 0
        for process in (self._process, *self._process.children(recursive=True)):
            with contextlib.suppress(psutil.Error, OSError):  # it has ended meanwhile
                full = process.memory_full_info()
                total += getattr(full, "pss", full.rss)
        self.bytes = max(self.bytes, total)


@contextlib.contextmanager
def watched_memory() -> Iterator[PeakMemory]:
    """While it lasts, a thread looks from time to time."""
    peak, ended = PeakMemory(), threading.Event()

    def watch() -> None:
        while not ended.wait(_SECONDS):
            peak.look()

    peak.look()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
        peak.look()
