"""An output that appears under its name only when it is whole."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weightsmith.errors import OutputError
from weightsmith.files.system_calls import sync_folder

FREE_FOR_SMALL_FILES = 32 << 20  # bytes: config, tokenizer, checksums


def check_space(out: Path, needed_bytes: int, free: int) -> None:
    """Raises OutputError where `free` bytes are too few."""
    if free < needed_bytes:
        raise OutputError(f"{out}: the disk is full: {needed_bytes:,} bytes are needed, {free:,} are free", path=out)


@contextmanager
def reporting_full_disk(out: Path) -> Iterator[None]:
    """A disk that fills up on the way is an OutputError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(f"{out}: the disk is full; free some space and run again", path=out) from error
        raise


def put_in_place(scratch: Path, out: Path) -> None:
    """Rename `scratch` to `out`; what was there is removed once the new one is in its place."""
    old = None
    if out.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
        out.rename(old / "old")
    scratch.rename(out)
    sync_folder(out.parent)
    if old:
        shutil.rmtree(old)


def check_output(out: Path, *, force: bool, inputs: tuple[Path, ...] = ()) -> None:
    """Raises OutputError where `out` is in use (a folder that is not empty, unless `force`), or would replace an
    input."""
    out = out.absolute()
    for path in inputs:
        if out.resolve() == path.resolve() or out.resolve() in path.resolve().parents:
            raise OutputError(
                f"{out}: holds the input {path}; inputs are never overwritten, choose another folder", path=out
            )
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: exists and is not a folder", path=out)
    if out.is_dir() and any(out.iterdir()) and not force:
        raise OutputError(
            f"{out}: exists and is not empty; choose another folder, or replace it with --force", path=out
        )
