"""Answers to what was asked of a model, a line each on the disk: an interrupted run does not ask again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from weightsmith.errors import SearchError
from weightsmith.recipe_search.objectives import Answer

AllAnswers = tuple[dict[int, Answer], ...]  # one dict per objective


class AnswerLog:
    """In the file `path`. A line that was cut short by a kill is skipped."""

    def __init__(self, path: Path, depends_on: Mapping[str, str]) -> None:
        """`depends_on`: what answers depend on besides what each is kept under. Raises SearchError where the file's
        depend on others."""
        self._path, self._known = path, dict[str, AllAnswers]()
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self._torn = bool(text) and not text.endswith("\n")
        lines_read = [line for line in map(_read, text.splitlines()) if line]
        if not lines_read:
            self._append({"made of": dict(depends_on)})
        for line in lines_read:
            if "answers" in line:
                self._known[json.dumps(line["of"])] = tuple(
                    {int(k): (v[0], v[1]) for k, v in a.items()} for a in line["answers"]
                )
            elif other := next(
                (text_key for text_key in depends_on if line["made of"].get(text_key) != depends_on[text_key]), None
            ):
                raise SearchError(
                    f"{path}: was made with another {other}; set it back, or discard what is there with --force"
                )

    def ask(self, key_parts: Mapping[str, Any], run: Callable[[], AllAnswers]) -> AllAnswers:
        """As kept under `key_parts`, or by `run`."""
        text_key = json.dumps(dict(key_parts))
        if text_key not in self._known:
            self._known[text_key] = run()
            self._append({"of": dict(key_parts), "answers": self._known[text_key]})
        return self._known[text_key]

    def _append(self, line: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" * self._torn + json.dumps(line) + "\n")
        self._torn = False


def _read(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None
