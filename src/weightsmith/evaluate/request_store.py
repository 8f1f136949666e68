"""What models have answered before, in SQLite: a run that was killed goes on, and what is added costs only itself."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weightsmith.errors import EvaluationError

_AT_ONCE = 500  # variables in one statement


class RequestStore:
    """Results under the names of their requests; each `put` is on the disk when it returns."""

    def __init__(self, path: Path) -> None:
        """Raises EvaluationError where `path` is no such store."""
        self._path = path
        try:
            self._db = sqlite3.connect(path, timeout=60, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("CREATE TABLE IF NOT EXISTS answers (request TEXT PRIMARY KEY, answer TEXT) WITHOUT ROWID")
            self._db.commit()
        except sqlite3.Error as error:
            raise EvaluationError(
                f"{path}: cannot be used to keep answers: {error}; remove it, or give another -o"
            ) from error

    def get(self, requests: Sequence[str]) -> dict[str, Any]:
        """Those that are known."""
        found: dict[str, Any] = {}
        for start in range(0, len(requests), _AT_ONCE):
            some = requests[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            for name, answer in self._db.execute(
                f"SELECT request, answer FROM answers WHERE request IN ({marks})", some
            ):
                found[name] = json.loads(answer)
        return found

    def put(self, answers: dict[str, Any]) -> None:
        try:
            with self._db:
                rows = [(name, json.dumps(answer)) for name, answer in answers.items()]
                self._db.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise EvaluationError(f"{self._path}: answers cannot be written: {error}") from error

    def close(self) -> None:
        self._db.close()
