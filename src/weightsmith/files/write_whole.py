"""Files that hold all of their content or what they held before: written beside their place, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weightsmith.errors import OutputError


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write `content` (text as UTF-8) to `path` in one step; returns `path`. Raises OSError, or OutputError where a
    link or a folder has the partial file's name."""
    with writing_whole(path) as partial:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


@contextmanager
def writing_whole(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """The path of a partial file (`.NAME.partial` beside `path`, unless given), renamed to `path` when the block ends
    and removed when it fails."""
    partial = partial or path.with_name(f".{path.name}.partial")
    if partial.is_symlink() or (partial.exists() and not partial.is_file()):
        raise OutputError(f"{partial}: is in the way of what is written there first; remove it", path=partial)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
