"""Answers of merges that live only in memory, kept on the disk: an interrupted run does not merge and ask again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from weightsmith.evaluation.answer_store import AnswerStore
from weightsmith.files.digests import digest
from weightsmith.recipe_search.objectives import AllAnswers


class KeptAnswers:
    """Answers to all objectives of one candidate at a time, in the answer store `path` (use it in a `with` block)."""

    def __init__(self, path: Path, depends_on: Mapping[str, str]) -> None:
        """`depends_on`: what answers depend on besides what each is kept under. Raises EvaluationError."""
        self._store, self._depends_on = AnswerStore(path), dict(depends_on)

    def has(self, key_parts: Mapping[str, Any]) -> bool:
        """Whether there are answers under `key_parts`."""
        key = self._key(key_parts)
        return key in self._store.get([key])

    def ask(self, key_parts: Mapping[str, Any], run: Callable[[], AllAnswers]) -> AllAnswers:
        """As kept under `key_parts`, or by `run`."""
        key = self._key(key_parts)
        stored = self._store.get([key])
        if key not in stored:
            answers = run()
            self._store.put({key: [{str(unit): answer for unit, answer in each.items()} for each in answers]})
            return answers
        try:
            return tuple({int(unit): (answer[0], answer[1]) for unit, answer in each.items()} for each in stored[key])
        except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            raise self._store.damaged(error) from error

    def _key(self, key_parts: Mapping[str, Any]) -> str:
        return digest([self._depends_on, dict(key_parts)])

    def __enter__(self) -> KeptAnswers:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()
