"""What was asked for the last table, a line per model: an interrupted search does not ask it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from weightsmith.search.objectives import Answer
from weightsmith.search.trial_run import TrialOrder, TrialResult

NAME = "held-out.jsonl"


class KeptAnswers:
    """In `folder`. A line that was being written when the search was killed is passed over."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._known: dict[str, tuple[dict[int, Answer], ...]] = {}
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        for line in text.splitlines():
            try:
                told = json.loads(line)
            except json.JSONDecodeError:
                continue
            self._known[_key(TrialOrder(told["recipe"], told["held_out"]))] = tuple(
                {int(number): (answer[0], answer[1]) for number, answer in found.items()} for found in told["answers"]
            )
        self._torn = bool(text) and not text.endswith("\n")

    def ask(self, order: TrialOrder, run: Callable[[TrialOrder], TrialResult]) -> TrialResult:
        """As it is kept, or of `run`."""
        if (known := self._known.get(_key(order))) is not None:
            return TrialResult(known)
        result = run(order)
        if not result.error:
            told = {"recipe": order.tree, "held_out": order.held_out, "answers": result.answers}
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n" * self._torn + json.dumps(told) + "\n")
            self._torn = False
        return result


def _key(order: TrialOrder) -> str:
    return json.dumps([order.tree, order.held_out])
