"""Requests asked until each has its answer, in smaller batches where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

Answer = TypeVar("Answer")
Note = Callable[[Sequence[tuple[int, Answer]]], None]  # (number, its answer), as they become known


class Shrinks(Protocol):
    def shrink(self, error: Exception) -> None:
        """Smaller batches from now on; raises where `error` is not about memory, or nothing is left to make smaller."""
        ...


def until_answered(
    count: int, ask: Callable[[Sequence[int], Note[Answer]], object], batches: Shrinks, told: Note[Answer] | None
) -> list[Answer]:
    """The answers of requests 0 to `count`. `ask` is given the numbers of those left and notes each answer by its place among them;
    `told` hears of answers as they come. What is known when memory runs out is not asked again."""
    answers: dict[int, Answer] = {}
    while len(answers) < count:
        left = [number for number in range(count) if number not in answers]

        def note(found: Sequence[tuple[int, Answer]], left: Sequence[int] = left) -> None:
            named = [(left[place], answer) for place, answer in found]
            answers.update(named)
            if told:
                told(named)

        try:
            ask(left, note)
        except (RuntimeError, MemoryError) as error:
            batches.shrink(error)
    return [answers[number] for number in range(count)]
