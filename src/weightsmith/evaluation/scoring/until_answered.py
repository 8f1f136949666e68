"""Requests asked until each has its answer, in smaller batches where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

Answer = TypeVar("Answer")
OnAnswers = Callable[[Sequence[tuple[int, Answer]]], None]  # (number, its answer), as they become known


class Shrinkable(Protocol):
    def shrink(self, error: Exception) -> None:
        """Smaller batches from now on; raises where `error` is not about memory, or nothing is left to make smaller."""
        ...


def until_answered(
    count: int,
    ask: Callable[[Sequence[int], OnAnswers[Answer]], object],
    batches: Shrinkable,
    on_answers: OnAnswers[Answer] | None,
) -> list[Answer]:
    """The answers of requests 0 to `count`. `ask` is given the numbers of those left and notes each answer by its place
    among them; `on_answers` gets answers as they come. What is known when memory runs out is not asked again."""
    answers: dict[int, Answer] = {}
    while len(answers) < count:
        left = [number for number in range(count) if number not in answers]

        def on_result(results: Sequence[tuple[int, Answer]], left: Sequence[int] = left) -> None:
            named = [(left[position], answer) for position, answer in results]
            answers.update(named)
            if on_answers:
                on_answers(named)

        try:
            ask(left, on_result)
        except (RuntimeError, MemoryError) as error:
            batches.shrink(error)
    return [answers[number] for number in range(count)]
