"""What earlier runs left and somebody changed: stored answers, studies, manifests, records, checksums."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.hostile.builders import recipe, write_model
from tests.hostile.corpus.values import RAW, WRONG, written
from tests.hostile.fork import EITHER, REFUSED, Case

_STATEMENTS: dict[str, list[str]] = {
    "another table": ["CREATE TABLE x (a)"],
    "other columns": ["CREATE TABLE answers (a)", "CREATE TABLE studies (a)"],
    "a view": ["CREATE VIEW answers AS SELECT 1 AS request, 2 AS answer", "CREATE VIEW studies AS SELECT 1"],
    "a view without end": [
        "CREATE VIEW answers AS WITH RECURSIVE c(request, answer) AS (SELECT 1, 1 UNION ALL SELECT request + 1, 1 FROM c) "
        "SELECT * FROM c",
    ],
    "a trigger": [
        "CREATE TABLE answers (request, answer)",
        "CREATE TRIGGER t AFTER INSERT ON answers BEGIN SELECT 1; END",
    ],
    "a virtual table": ["CREATE VIRTUAL TABLE answers USING fts5(request, answer)"],
    "a name with control characters": ['CREATE TABLE "\x1b[2J" (a)'],
}
_ENTRY: dict[str, Any] = {
    "file": "x-f16.gguf", "type": "f16", "bytes": 1, "sha256": "0" * 64, "how": "how", "source": ["x"], "key": "k", "modified": 1,
    "measured": {},
}  # fmt: skip


def _built(name: str, content: bytes | list[str]) -> Callable[[Path], None]:
    """The file `name`, as bytes or as a database that statements make."""

    def build(folder: Path) -> None:
        for seed, model in enumerate(("good", "other")):
            write_model(folder / model, seed)
        (folder / "q.jsonl").write_text('{"prompt": "a", "target": "b"}\n')
        (folder / "r.yml").write_text(recipe("good", "other"))
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
            return
        with sqlite3.connect(path) as database:
            for statement in content:
                database.execute(statement)

    return build


def cases() -> Iterator[Case]:
    evaluate = ("evaluate", "good", "--questions", "q.jsonl", "-o", "scores", "-q")
    search = ("search", "s.yml", "found", "--resume", "-q")
    text = {"recipe": json.loads(json.dumps(_space())), "objective": [{"questions": "q.jsonl"}], "trials": 1}

    def with_search(content: bytes | list[str]) -> Callable[[Path], None]:
        def build(folder: Path) -> None:
            _built("found/study.db", content)(folder)
            (folder / "q.jsonl").write_text('{"prompt": "a", "target": "b"}\n' * 4)
            (folder / "s.yml").write_text(json.dumps(text))

        return build

    for name, content in _databases().items():
        yield Case(f"answers: {name}", _built("scores/answers.sqlite", content), evaluate, "answers.sqlite", outputs=())
        yield Case(f"study: {name}", with_search(content), search, "", REFUSED, ())
    for name, content in RAW.items():
        for file in (".digests.json",):
            yield Case(f"{file}: {name}", _built(f"scores/{file}", content), ("inspect", "good", "-q"), "", EITHER)
        yield Case(f"manifest: {name}", _built("gguf/manifest.json", content), _clean(), "manifest.json", outputs=())
        export = ("export", "good", "gguf", "--type", "f16", "-q")
        yield Case(
            f"export, manifest: {name}", _built("gguf/manifest.json", content), export, "manifest.json", outputs=()
        )
        if name != "half a pair":
            yield Case(f"checksums: {name}", _with_checksums(content), ("verify", "good"), "checksums.json", outputs=())
        yield Case(f"merge over checksums: {name}", _with_checksums(content), _over(), "", REFUSED, ())
    for key in (*_ENTRY, "no_key"):
        for name in WRONG:
            entry = written(_ENTRY, key, name)
            manifest = f'{{"weightsmith": "1", "files": [{entry}]}}'.encode()
            yield Case(f"manifest, {key}: {name}", _built("gguf/manifest.json", manifest), _clean(), "", EITHER, ())
    for file in ("..", ".", "/etc/passwd", "a/b", "../good/config.json", "a\nb", "", "x" * 5000):
        manifest = json.dumps({"weightsmith": "1", "files": [_ENTRY | {"file": file}]}).encode()
        yield Case(
            f"manifest of {file[:20]!r}", _built("gguf/manifest.json", manifest), _clean(), "manifest", outputs=()
        )
    for key in ("algorithm", "tensors", "run", "files"):
        for name in WRONG:
            content = written({"algorithm": "xxh3_128", "tensors": {}, "run": ""}, key, name).encode()
            yield Case(f"checksums, {key}: {name}", _with_checksums(content), ("verify", "good"), "", (0, 1, 2), ())


def _clean() -> tuple[str, ...]:
    return ("clean", "gguf", "--keep", "q4_k_m", "--yes")


def _over() -> tuple[str, ...]:
    return ("merge", "r.yml", "done", "-q")


def _with_checksums(content: bytes) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        _built("good/checksums.json", content)(folder)
        write_model(folder / "done", 3)
        (folder / "done" / "checksums.json").write_bytes(content)

    return build


def _space() -> dict[str, Any]:
    other = {"model": "other", "parameters": {"weight": {"uniform": [0.1, 0.9]}}}
    return {"merge_method": "linear", "models": [{"model": "good", "parameters": {"weight": 0.5}}, other]}


def _databases() -> dict[str, bytes | list[str]]:
    head = b"SQLite format 3\0"
    return {
        "text": b"hello",
        "zeros": b"\0" * 8192,
        "a head alone": head,
        "noise behind a head": head + bytes(range(256)) * 64,
        "page size 1": head + b"\x00\x01" + b"\x01\x01\x00\x40\x20\x20" + b"\0" * 8000,
        **_STATEMENTS,
    }
