"""When an answer ends before its model ends it: rules that can be named, so that answers can be kept under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class StopRule(Protocol):
    """A `GoesOn` with a name for what it does with each question."""

    def __call__(self, question: int, text: str) -> bool: ...
    def rule(self, question: int) -> Any:
        """What JSON has, equal where the rule is."""
        ...


@dataclass(frozen=True)
class UntilWrong:
    """An answer goes on while it may still become its target. A character of several bytes may be half decoded; the
    replacement sign then stands at the end."""

    targets: Sequence[str]

    def __call__(self, question: int, text: str) -> bool:
        return goes_on(self.targets[question], text)

    def rule(self, question: int) -> Any:
        return {"target": self.targets[question]}


@dataclass(frozen=True)
class UntilStop:
    """An answer goes on until it holds one of `stops`."""

    stops: Sequence[str]

    def __call__(self, question: int, text: str) -> bool:
        return not any(stop in text for stop in self.stops)

    def rule(self, question: int) -> Any:
        return {"stops": list(self.stops)}


def goes_on(target: str, text: str) -> bool:
    """Whether a text that begins so may become `target`."""
    return target.startswith(text.strip().rstrip("\ufffd"))
