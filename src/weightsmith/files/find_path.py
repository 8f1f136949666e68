"""Paths that a file names: relative to the working directory, or else to the file's own folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

from weightsmith.errors import is_plain_name


def find_path(path: str, beside: Path | None) -> Path | None:
    """`path` from the working directory, or from the folder `beside`; None where it is in neither."""
    try:
        here = Path(path).expanduser()
    except RuntimeError:  # the home of nobody
        here = Path(path)
    for candidate in (here, beside / here if beside else here):
        with contextlib.suppress(OSError, ValueError):  # a name that no system takes
            if path and candidate.exists():
                return candidate
    return None


def is_file(path: Path) -> bool:
    """Whether a file is there; False for a name that no system takes."""
    with contextlib.suppress(OSError, ValueError):
        return path.is_file()
    return False


def path_beside(path: str, folder: Path) -> Path:
    """The same, and in `folder` where it is in neither."""
    return find_path(path, folder) or folder / path


def is_file_name(name: str) -> bool:
    """Whether a name that a file claims is one of a file in a folder: with no path in it and nothing invisible.

    >>> [is_file_name(name) for name in ("model.safetensors", "..", "a/b", "a\n")]
    [True, False, False, False]
    """
    return name not in ("", ".", "..") and not set(name) & {"/", "\\"} and is_plain_name(name)
