"""Progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from weightsmith.units import show_size

SECONDS_BETWEEN_LINES = 10.0

Log = Callable[[str], None]


def line_logger(*, quiet: bool) -> Log:
    """A function that prints a line to standard error, or, if `quiet`, nothing."""
    return (lambda line: None) if quiet else lambda line: print(line, file=sys.stderr, flush=True)


@contextmanager
def progress_bar(label: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Yields a function of (bytes done, bytes in total)."""
    if quiet:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn(label), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(label)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        every = _Every(SECONDS_BETWEEN_LINES)

        def on_progress(done: int, total: int) -> None:
            if every.due():
                print(f"{label}: {show_size(done)} of {show_size(total)}", file=sys.stderr, flush=True)

        yield on_progress


@contextmanager
def counter(unit: str, *, quiet: bool) -> Iterator[tuple[Log, Callable[[str, int, int], None]]]:
    """Yields a function that prints a line, and one of (label, done, in total); the two never mix on one line."""
    if quiet:
        yield lambda line: None, lambda label, done, total: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        description = TextColumn("{task.description}")
        columns = (description, BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("", total=None)

            def update(label: str, done: int, total: int) -> None:
                bar.update(task, description=label, completed=done, total=total)

            yield lambda line: bar.console.print(line, markup=False, highlight=False), update
    else:
        every = _Every(SECONDS_BETWEEN_LINES)

        def on_progress(label: str, done: int, total: int) -> None:
            if every.due():
                print(f"{label}: {done} of {total} {unit}", file=sys.stderr, flush=True)

        yield line_logger(quiet=False), on_progress


class _Every:
    """True once per interval."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, time.monotonic()

    def due(self) -> bool:
        if time.monotonic() - self._last < self._seconds:
            return False
        self._last = time.monotonic()
        return True
