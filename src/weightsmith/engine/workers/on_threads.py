"""The same work on many things, on a few threads; the first failure, or Ctrl-C, stops all of it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from typing import Protocol, TypeVar

_AHEAD = 8  # per worker

Thing = TypeVar("Thing")
Result = TypeVar("Result")


class Stop(Protocol):
    """An event of threads or of processes."""

    def set(self) -> None: ...
    def is_set(self) -> bool: ...


def on_threads(
    work: Callable[[Thing, Stop], Result],
    things: Iterable[Thing],
    threads: int,
    *,
    tick: Callable[[], object],
) -> Iterator[Result]:
    """Results as they come, in no order. `work` looks at the event now and then and raises where it is set; `tick` is
    called some times a second. torch, if it is imported, computes with one thread per worker, and afterwards with as
    many as before."""
    stop = threading.Event()
    with _torch_as_before(), ThreadPoolExecutor(threads, initializer=compute_alone) as pool:
        yield from results_of(pool, lambda thing: pool.submit(work, thing, stop), things, threads, stop, tick)


def results_of(
    pool: Executor,
    submit: Callable[[Thing], Future[Result]],
    things: Iterable[Thing],
    workers: int,
    stop: Stop,
    tick: Callable[[], object],
) -> Iterator[Result]:
    """What `submit` gives for each of `things`; where one fails, or the reader of these results does, `stop` is set."""
    remaining = iter(things)
    pending: set[Future[Result]] = set()
    try:
        while True:
            # A few ahead: waiting takes time for each one that is pending.
            pending |= {submit(thing) for thing in islice(remaining, _AHEAD * workers - len(pending))}
            if not pending:
                return
            finished, pending = wait(pending, timeout=0.1, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
            tick()
    except BaseException:
        stop.set()
        pool.shutdown(cancel_futures=True)
        raise


@contextmanager
def _torch_as_before() -> Iterator[None]:
    """Puts back torch's number of threads, which is one for the whole process."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)


def compute_alone() -> None:
    """In a worker: torch computes with one thread."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
