"""How far a long call is: the one form in which every public function tells it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """`stage`: what is being done, such as "merging"; `done` of `total` in `unit` (bytes, requests, trials, ...);
    `total` is 0 where it is not known.

    >>> Progress("merging", 500, 2000, "bytes").share
    0.25
    """

    stage: str
    done: int
    total: int
    unit: str

    @property
    def share(self) -> float | None:
        """Between 0 and 1; None where the total is not known."""
        return self.done / self.total if self.total else None


OnProgress = Callable[[Progress], None]


def no_progress(progress: Progress) -> None:
    """Tells nobody."""


def counted(on_progress: OnProgress, stage: str, unit: str) -> Callable[[int, int], None]:
    """A function of (done, total) that reports one stage."""
    return lambda done, total: on_progress(Progress(stage, done, total, unit))


class StageClock:
    """When a stage began, and how fast it is since."""

    def __init__(self) -> None:
        self._stage, self._began, self._first = "", 0.0, 0

    def begins(self, progress: Progress) -> bool:
        """Whether this is another stage than before."""
        if progress.stage == self._stage and progress.done >= self._first:
            return False
        self._stage, self._began, self._first = progress.stage, time.monotonic(), progress.done
        return True

    def rate(self, progress: Progress) -> float | None:
        """Units per second; None at the beginning."""
        seconds = time.monotonic() - self._began
        return (progress.done - self._first) / seconds if seconds > 1 and progress.done > self._first else None

    def seconds_left(self, progress: Progress) -> float | None:
        """If it goes on as fast as until now; None at the beginning, and where the total is not known."""
        rate = self.rate(progress)
        return (progress.total - progress.done) / rate if rate and progress.total else None
