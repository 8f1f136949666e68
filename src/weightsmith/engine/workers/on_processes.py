"""The same work on many things, on more cores than threads of one interpreter keep busy: each of a few processes,
forked from this one, does one thing after the other.

With sixteen threads, most of a merge's processor time goes into waiting for the interpreter's lock between blocks.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any

from weightsmith.engine.workers.on_threads import Result, Stop, Thing, compute_alone, on_threads, results_of
from weightsmith.errors import ProcessKilledError

MOST_THREADS = 4  # that one interpreter keeps busy

_work: Callable[[Any, Stop], Any]  # of a forked process: what it inherited
_things: Sequence[Any]
_stop: Stop


class Count:
    """A number that threads, and with `across` forked processes, add to."""

    def __init__(self, *, across: bool) -> None:
        self._value = multiprocessing.get_context("fork").Value("q", 0) if across else None
        self._here, self._lock = 0, threading.Lock()

    def add(self, count: int) -> None:
        if self._value is not None:
            with self._value.get_lock():
                self._value.value += count
        else:
            with self._lock:
                self._here += count

    @property
    def now(self) -> int:
        return self._value.value if self._value is not None else self._here


def forks(workers: int) -> bool:
    """Whether `on_workers` uses processes for so many: on Linux, where they share all memory until it is written to."""
    return workers > MOST_THREADS and sys.platform == "linux"


def on_workers(
    work: Callable[[Thing, Stop], Result], things: Iterable[Thing], workers: int, *, tick: Callable[[], object]
) -> Iterator[Result]:
    """As `on_threads`, on processes where these are faster. `work` then changes nothing of the caller's, and its
    results can be pickled."""
    return (on_processes if forks(workers) else on_threads)(work, things, workers, tick=tick)


def on_processes(
    work: Callable[[Thing, Stop], Result], things: Iterable[Thing], processes: int, *, tick: Callable[[], object]
) -> Iterator[Result]:
    """As `on_threads`; the last thing is done first, in this process, so that what it loads is there for all. Raises
    ProcessKilledError where the system kills a process."""
    fork = multiprocessing.get_context("fork")
    things, stop = list(things), fork.Event()
    if things:
        yield work(things.pop(), stop)
        tick()
    processes = min(processes, len(things)) or 1
    with ProcessPoolExecutor(processes, fork, initializer=_begin, initargs=(work, things, stop)) as pool:
        try:
            yield from results_of(
                pool, lambda number: pool.submit(_do, number), range(len(things)), processes, stop, tick
            )
        except BrokenProcessPool as error:
            raise ProcessKilledError(
                f"one of {processes} processes was killed, as systems do when memory runs out; use fewer --threads: "
                "the same command goes on where this one stopped"
            ) from error


def _begin(work: Callable[[Any, Stop], Any], things: Sequence[Any], stop: Stop) -> None:
    """A forked process leaves Ctrl-C, which reaches every process of a terminal, to its parent, which it does not
    outlive."""
    global _work, _things, _stop
    _work, _things, _stop = work, things, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    compute_alone()
    parent = multiprocessing.parent_process()
    if parent:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _do(number: int) -> Any:
    return _work(_things[number], _stop)
