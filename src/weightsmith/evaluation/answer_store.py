"""Stored answers, in SQLite: a killed run resumes, and models or tasks added later cost only themselves."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weightsmith.errors import EvaluationError
from weightsmith.files.digests import FileDigests, digest
from weightsmith.files.inputs.sqlite_file import open_sqlite
from weightsmith.models.model import Model

_AT_ONCE = 500  # variables in one statement


class AnswerStore:
    """Results under the names of their requests; each `put` is on the disk when it returns."""

    def __init__(self, path: Path | None) -> None:
        """None: answers are kept in memory. Raises EvaluationError where `path` is no such store."""
        self._path = path
        try:
            if path:
                self._db = open_sqlite(path, {"answers"}, error=EvaluationError)
            else:
                self._db = sqlite3.connect(":memory:", check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("CREATE TABLE IF NOT EXISTS answers (request TEXT PRIMARY KEY, answer TEXT) WITHOUT ROWID")
            self._db.commit()
            self._db.execute("SELECT request, answer FROM answers LIMIT 1").fetchone()
        except sqlite3.Error as error:
            raise EvaluationError(
                f"{path}: cannot be used to store answers: {error}; remove it, or give another -o", path=path
            ) from error

    def get(self, requests: Sequence[str]) -> dict[str, Any]:
        """Those of `requests` that are stored."""
        answers: dict[str, Any] = {}
        for start in range(0, len(requests), _AT_ONCE):
            names = requests[start : start + _AT_ONCE]
            marks = ",".join("?" * len(names))
            try:
                for name, answer in self._db.execute(
                    f"SELECT request, answer FROM answers WHERE request IN ({marks})", names
                ):
                    answers[name] = json.loads(answer)
            except (sqlite3.Error, ValueError, TypeError, RecursionError) as error:
                raise self.damaged(error) from error
        return answers

    def damaged(self, error: Exception) -> EvaluationError:
        """What is raised where an answer is none."""
        return EvaluationError(
            f"{self._path}: stored answers cannot be read: {error}; remove it, or give another -o", path=self._path
        )

    def put(self, answers: dict[str, Any]) -> None:
        try:
            with self._db:
                rows = [(name, json.dumps(answer)) for name, answer in answers.items()]
                self._db.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise EvaluationError(f"{self._path}: answers cannot be written: {error}", path=self._path) from error

    @property
    def count(self) -> int:
        """How many answers are stored."""
        return self._db.execute("SELECT COUNT(*) FROM answers").fetchone()[0]

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> AnswerStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def holds_answers(path: Path) -> bool:
    """Whether the store at `path` has an answer."""
    if not path.exists():
        return False
    with AnswerStore(path) as store:
        return store.count > 0


_WEIGHTS = {".safetensors", ".gguf", ".bin", ".pt", ".pth"}


_BESIDE = {".json", ".jinja", ".model", ".txt"}  # configuration and tokenizer; a README plays no part


_OF_A_RUN = {"checksums.json"}


def content_key(model: Model, precision: str, digests: FileDigests) -> str:
    """A digest of all weights, the configuration, the tokenizer, and the compute precision."""
    contents = []
    for folder in dict.fromkeys([*model.files, model.home]):
        files = sorted(folder.iterdir()) if folder.is_dir() else [folder]
        relevant = [p for p in files if p.is_file() and p.suffix in _WEIGHTS | _BESIDE and p.name not in _OF_A_RUN]
        contents.append([[path.name, digests.of(path)] for path in relevant])
    return digest([precision, contents])
