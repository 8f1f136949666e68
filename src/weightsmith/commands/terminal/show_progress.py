"""Progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from weightsmith.progress import OnProgress, Progress, StageClock, no_progress
from weightsmith.units import show_amount, show_size

SECONDS_BETWEEN_LINES = 10.0
_AMOUNT_WIDTH = 28  # `1.20 GB of 5.00 GB, 350 MB/s`

Log = Callable[[str], None]


@contextmanager
def show_progress(*, quiet: bool) -> Iterator[tuple[Log, OnProgress]]:
    """Yields a function that prints a line, and one that shows how far the current stage is; the two never mix on one
    line. Nothing is printed if `quiet`."""
    if quiet:
        yield lambda line: None, no_progress
    elif sys.stderr.isatty():
        with _bar() as functions:
            yield functions
    else:
        yield lambda line: print(line, file=sys.stderr, flush=True), _Lines()


@contextmanager
def _bar() -> Iterator[tuple[Log, OnProgress]]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    amount = TextColumn(
        "{task.fields[amount]}", markup=False, table_column=Column(no_wrap=True, min_width=_AMOUNT_WIDTH)
    )
    stage = TextColumn("{task.description}", markup=False)  # a model may be called `[/]`
    columns = (stage, BarColumn(bar_width=20), amount, TimeRemainingColumn())
    clock = StageClock()
    with Bar(*columns, console=Console(stderr=True, markup=False, emoji=False), transient=True) as bar:
        task = bar.add_task("", total=None, amount="", visible=False)

        def update(progress: Progress) -> None:
            if clock.begins(progress):
                bar.reset(task, total=progress.total or None, visible=True)
            text = _amount(progress, clock.rate(progress))
            bar.update(
                task, description=progress.stage, completed=progress.done, total=progress.total or None, amount=text
            )

        yield lambda line: bar.console.print(line, highlight=False), update


class _Lines:
    """A line when a stage has run for some seconds, and then once in as many."""

    def __init__(self) -> None:
        self._clock, self._last = StageClock(), time.monotonic()

    def __call__(self, progress: Progress) -> None:
        self._clock.begins(progress)
        if time.monotonic() - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = time.monotonic()
        rate = self._clock.rate(progress)
        seconds_left = self._clock.seconds_left(progress)
        left = "" if seconds_left is None else f", {seconds_left:.0f} s left"
        print(f"{progress.stage}: {_amount(progress, rate)}{left}", file=sys.stderr, flush=True)


def _amount(progress: Progress, rate: float | None) -> str:
    """`1.20 GB of 5.00 GB, 350 MB/s` or `12 of 60 trials`"""
    text = show_amount(progress.done, progress.total, progress.unit)
    return f"{text}, {show_size(int(rate))}/s" if rate and progress.unit == "bytes" else text
