"""Names for content: the same bytes and settings give the same digest, wherever they lie."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


class FileDigests:
    """SHA-256 of files; remembered by path, size and change time in `memory`, so that big files are read once."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._known: dict[str, list[Any]] = {}
        if memory.exists():
            try:
                self._known = dict(json.loads(memory.read_text(encoding="utf-8")))
            except (ValueError, TypeError):
                self._known = {}  # it is a cache: a damaged one is computed again

    def of(self, path: Path) -> str:
        """Digest of a file, or of all files in a folder with their names."""
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file())
            return digest({str(p.relative_to(path)): self.of(p) for p in inside})
        state = path.stat()
        stamp = [state.st_size, state.st_mtime_ns]
        key = str(path.resolve())
        if self._known.get(key, [])[:2] != stamp:
            with path.open("rb") as file:
                self._known[key] = [*stamp, hashlib.file_digest(file, "sha256").hexdigest()]
            partial = self._memory.with_suffix(".partial")
            partial.write_text(json.dumps(self._known), encoding="utf-8")
            partial.replace(self._memory)
        return self._known[key][2]


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
