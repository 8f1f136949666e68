"""A folder that one process at a time works in."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FolderInUse(Exception):
    """Another process holds the folder; `owner` is its process id, where it is known."""

    def __init__(self, folder: Path, owner: str | None = None) -> None:
        super().__init__(str(folder))
        self.owner = owner


@contextmanager
def folder_lock(folder: Path, *, owner_file: str | None = None) -> Iterator[None]:
    """Hold `folder`, created if it is not there, until the block or the process ends.

    The lock is on the folder itself, so that it goes with the folder when that is renamed. `owner_file` names a file in
    it that tells others which process holds it. Raises FolderInUse, or OSError where the folder cannot be created.
    """
    descriptor = _lock(folder, owner_file)
    try:
        if owner_file:
            (folder / owner_file).write_text(str(os.getpid()), encoding="ascii")
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path, owner_file: str | None) -> int:
    for _ in range(3):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise FolderInUse(folder, _owner(folder, owner_file)) from None
        except FileNotFoundError:
            pass  # the other process finished between our two steps
        os.close(descriptor)
    raise FolderInUse(folder)


def _owner(folder: Path, owner_file: str | None) -> str | None:
    try:
        return (folder / owner_file).read_text(encoding="ascii").strip() or None if owner_file else None
    except (OSError, UnicodeDecodeError):
        return None
