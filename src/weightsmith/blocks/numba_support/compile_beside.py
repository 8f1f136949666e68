"""Kernels that a second process compiles, while this one compiles others: numba compiles one at a time in a process."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


class CompiledBeside:
    """`kernel`, compiled by calling `last` in a forked process, which keeps it in the cache, after what `first` calls.
    Where there is nothing to gain (it is there already, one core, no cache), or anything fails, it is compiled where it
    is first called, as any other."""

    def __init__(self, kernel: Any, first: Callable[[], object], last: Callable[[], object]) -> None:
        self._kernel, self._first, self._last, self._lock = kernel, first, last, threading.Lock()
        self._process: int | None = None

    def start(self, cores: int, between: Callable[[], object]) -> None:
        """Begin, where so many cores are to be used. `between`: compiles what this process comes to late, for it to
        find in the cache if it is there by then."""
        folder = self._kernel.stats.cache_path
        if cores < 2 or sys.platform != "linux" or self._kernel.signatures or not folder or self._process:
            return
        if any(Path(folder).glob(f"*.{self._kernel.__name__}-*.nbi")):
            return
        self._process = os.fork()
        if self._process == 0:
            try:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                for call in (self._first, between, self._last):
                    call()
            finally:
                os._exit(0)

    def wait(self) -> None:
        """Until it is there, if it was begun: to be called before `kernel`."""
        if self._process:
            with self._lock:
                if self._process:
                    with suppress(ChildProcessError):  # this process was forked from the one that began it
                        os.waitpid(self._process, 0)
                    self._process = None
