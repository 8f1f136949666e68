"""Names for content: the same bytes and settings give the same digest, wherever they lie."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from weightsmith.files.write_whole import write_whole


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON; what JSON does not have goes in as text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FileDigests:
    """SHA-256 of files; remembered by path, size, times and inode in the file `cache`, so that big files are read
    once."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._known: dict[str, list[Any]] = {}
        if cache.exists():
            try:
                known = dict(json.loads(cache.read_text(encoding="utf-8")))
                self._known = {key: entry for key, entry in known.items() if isinstance(entry, list)}
            except (OSError, ValueError, TypeError, RecursionError):
                self._known = {}  # a damaged cache is computed again

    def of(self, path: Path) -> str:
        """Digest of a file, or of all files in a folder with their names."""
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file())
            return digest({str(p.relative_to(path)): self.of(p) for p in files})
        state = path.stat()
        stamp = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
        key = str(path.resolve())
        if self._known.get(key, [])[:-1] != stamp:
            self._known[key] = [*stamp, file_digest(path)]
            write_whole(self._cache, json.dumps(self._known))
        return self._known[key][-1]
