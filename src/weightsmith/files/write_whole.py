"""Files that hold all of their content or what they held before: written beside their place, then renamed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write `content` (text as UTF-8) to `path` in one step; returns `path`. Raises OSError."""
    with writing_whole(path) as partial:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


@contextmanager
def writing_whole(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """The path of a partial file (`.NAME.partial` beside `path`, unless given), renamed to `path` when the block ends
    and removed when it fails."""
    partial = partial or path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
