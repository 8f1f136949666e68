"""The same work on many things, on a few threads; the first failure, or Ctrl-C, stops all of it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

_AHEAD = 8  # per thread

Thing = TypeVar("Thing")
Result = TypeVar("Result")


def on_threads(
    work: Callable[[Thing, threading.Event], Result],
    things: Iterable[Thing],
    threads: int,
    *,
    tick: Callable[[], object],
) -> Iterator[Result]:
    """Results as they come, in no order. `work` looks at the event now and then and raises where it is set; `tick` is
    called some times a second. torch, if it is imported, computes with one thread per worker, and afterwards with as
    many as before."""
    stop = threading.Event()
    with _torch_as_before(), ThreadPoolExecutor(threads, initializer=_compute_alone) as pool:
        remaining = iter(things)
        pending: set[Future[Result]] = set()
        try:
            while True:
                # A few ahead: waiting takes time for each one that is pending.
                pending |= {
                    pool.submit(work, thing, stop) for thing in islice(remaining, _AHEAD * threads - len(pending))
                }
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


def _compute_alone() -> None:
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
