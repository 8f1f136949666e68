"""A folder, or a file, that one process at a time works in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class FolderInUse(Exception):
    """Another process holds the folder; `owner` is its process id, where it is known."""

    def __init__(self, folder: Path, owner: str | None = None) -> None:
        super().__init__(str(folder))
        self.owner = owner


@contextmanager
def folder_lock(folder: Path, *, owner_file: str | None = None) -> Iterator[None]:
    """Hold `folder`, created if it is not there, until the block or the process ends.

    The lock is on the folder itself, so that it goes with the folder when that is renamed; where folders cannot be
    locked, it is a file beside it. `owner_file` names a file in the folder that tells others which process holds it.
    Raises FolderInUse, or OSError where the folder cannot be created.
    """
    with _lock_folder(folder, owner_file) if fcntl else _lock_beside(folder, owner_file):
        if owner_file:
            (folder / owner_file).write_text(str(os.getpid()), encoding="ascii")
        yield


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the file `path`, created if it is not there, as `folder_lock` does. No lock where the system has none."""
    if not fcntl:
        yield
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise FolderInUse(path) from None
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the file `path` by `file_lock`. False where the system has no locks."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


@contextmanager
def _lock_folder(folder: Path, owner_file: str | None) -> Iterator[None]:
    descriptor = _locked(folder, owner_file)
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(folder: Path, owner_file: str | None) -> int:
    assert fcntl
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


@contextmanager
def _lock_beside(folder: Path, owner_file: str | None) -> Iterator[None]:
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    file = folder.with_name(f"{folder.name}.lock")
    try:
        with FileLock(file, blocking=False):
            yield
    except Timeout:
        raise FolderInUse(folder, _owner(folder, owner_file)) from None
    file.unlink(missing_ok=True)


def _owner(folder: Path, owner_file: str | None) -> str | None:
    try:
        return (folder / owner_file).read_text(encoding="ascii").strip() or None if owner_file else None
    except (OSError, UnicodeDecodeError):
        return None
