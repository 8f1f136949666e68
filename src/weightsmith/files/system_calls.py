"""What systems do differently, in one form: positional reads and writes, reserving room, syncing, locking.

On Linux each is the call of the same name. macOS lacks posix_fallocate, fdatasync and posix_fadvise; Windows lacks
pread and pwrite as well, opens files in text mode unless told otherwise, and cannot open a folder.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path

BINARY = getattr(os, "O_BINARY", 0)  # Windows
_cursor = threading.Lock()  # where a read or write has to move the file's one cursor


def read_at(fd: int, into: memoryview, offset: int) -> int:
    """Fill `into`, or a first part of it, with the bytes at `offset`; returns how many. Any thread may call it."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [into], offset)
    content = bytes_at(fd, len(into), offset)
    into[: len(content)] = content
    return len(content)


def bytes_at(fd: int, count: int, offset: int) -> bytes:
    """At most `count` bytes at `offset`."""
    if hasattr(os, "pread"):
        return os.pread(fd, count, offset)
    with _cursor:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, count)


def write_at(fd: int, content: memoryview, offset: int) -> None:
    """All of `content` at `offset`. Any thread may call it."""
    while content:
        if hasattr(os, "pwrite"):
            count = os.pwrite(fd, content, offset)
        else:
            with _cursor:
                os.lseek(fd, offset, os.SEEK_SET)
                count = os.write(fd, content)
        content, offset = content[count:], offset + count


def reserve(fd: int, folder: Path, start: int, count: int) -> None:
    """Have the file hold `count` more bytes from `start` on. Raises OSError (ENOSPC) where the disk of `folder` has no
    room for them."""
    if hasattr(os, "posix_fallocate"):
        try:
            return os.posix_fallocate(fd, start, count)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot do it
                raise
    if shutil.disk_usage(folder).free < count:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(fd, start + count)


def sync_data(fd: int) -> None:
    """What was written is on the disk afterwards, and leaves the page cache, where the system can be asked to."""
    (os.fdatasync if hasattr(os, "fdatasync") else os.fsync)(fd)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def sync_tree(folder: Path) -> None:
    """All files in `folder`, and their names, are on the disk afterwards."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            descriptor = os.open(path, os.O_RDWR)  # Windows syncs no file that is open for reading
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """A name that was given in `folder` is on the disk afterwards, where a folder can be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
