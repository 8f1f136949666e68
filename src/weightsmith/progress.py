"""How far a long call is: the one form in which every public function tells it."""

from __future__ import annotations

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
