"""Answers to what was asked of a model, a line each on the disk: what was interrupted does not ask it again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from weightsmith.errors import SearchError
from weightsmith.search.objectives import Answer

AllAnswers = tuple[dict[int, Answer], ...]  # one dict per objective


class KeptAnswers:
    """In the file `path`. A line that was being written when it was killed is passed over."""

    def __init__(self, path: Path, made_of: Mapping[str, str]) -> None:
        """`made_of`: what answers depend on besides what each is kept under. Raises SearchError where the file's depend on others."""
        self._path, self._known = path, dict[str, AllAnswers]()
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self._torn = bool(text) and not text.endswith("\n")
        told = [line for line in map(_read, text.splitlines()) if line]
        if not told:
            self._append({"made of": dict(made_of)})
        for line in told:
            if "answers" in line:
                self._known[json.dumps(line["of"])] = tuple(
                    {int(k): (v[0], v[1]) for k, v in a.items()} for a in line["answers"]
                )
            elif other := next((key for key in made_of if line["made of"].get(key) != made_of[key]), None):
                raise SearchError(
                    f"{path}: was made with another {other}; set it back, or discard what is there by --force"
                )

    def ask(self, of: Mapping[str, Any], run: Callable[[], AllAnswers]) -> AllAnswers:
        """As kept under `of`, or by `run`."""
        key = json.dumps(dict(of))
        if key not in self._known:
            self._known[key] = run()
            self._append({"of": dict(of), "answers": self._known[key]})
        return self._known[key]

    def _append(self, line: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" * self._torn + json.dumps(line) + "\n")
        self._torn = False


def _read(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
