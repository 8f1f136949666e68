"""An output that appears under its name only when it is whole."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from weightsmith.errors import OutputError
from weightsmith.files.system_calls import sync_folder, sync_tree
from weightsmith.files.work_folder import entries_of

_MERGED = "checksums.json"  # beside weights that we wrote
# One of these is in every folder that a command of ours wrote.
_OURS = frozenset({_MERGED, "manifest.json", "answers.sqlite", "evaluation.md", "study.db", "ablation.csv", ".stages"})


def check_space(out: Path, weights_bytes: int, free: int, *, beside: int = 0) -> None:
    """Raises OutputError where `free` bytes are too few for the weights and what is written `beside` them."""
    if free < weights_bytes + beside:
        parts = (
            f" ({weights_bytes:,} of weights, {beside:,} for tokenizer, configuration and journal)" if beside else ""
        )
        raise OutputError(
            f"{out}: the disk is full: {weights_bytes + beside:,} bytes are needed{parts}, {free:,} are free", path=out
        )


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
    """Rename `scratch` to `out`, once all of it is on the disk; what was there is removed once the new one is in its
    place."""
    sync_tree(scratch)
    old = None
    if out.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
        out.rename(old / "old")
    scratch.rename(out)
    sync_folder(out.parent)
    if old:
        shutil.rmtree(old)


def check_output(out: Path, *, force: bool, inputs: Sequence[Path] | None) -> None:
    """Raises OutputError, before any work, where `out` cannot become a folder of ours: an input is it, holds it or lies
    in it; it is in use (not empty, unless `force`); with `force`, where no earlier run of ours wrote it; or it has no
    place that can be written. `inputs` is None where they are not known yet: it is asked again when they are."""
    out = out.absolute()
    check_apart(out, inputs or ())
    if out.is_symlink():
        target = os.path.realpath(out)
        raise OutputError(f"{out}: is a link, to {target}; name the folder itself", path=out)
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: exists and is not a folder", path=out)
    entries = entries_of(out)
    if entries and not force:
        ours = ", or replace it with --force" if _OURS.intersection(entries) else ""
        raise OutputError(f"{out}: exists and is not empty; choose another folder{ours}", path=out)
    if entries and inputs is not None and not _OURS.intersection(entries):
        raise OutputError(
            f"{out}: --force replaces what weightsmith wrote, and this folder holds something else ({entries[0]}); "
            "remove it by hand, or choose another folder",
            path=out,
        )
    check_place(out)


def check_apart(out: Path, inputs: Sequence[Path], *, replaced: bool = True) -> None:
    """Raises OutputError where an input is `out` or holds it, links followed, or, where all of `out` is `replaced`,
    lies in it."""
    target = Path(os.path.realpath(out))
    for path in inputs:
        source = Path(os.path.realpath(path))
        if target == source or (replaced and target in source.parents):
            raise OutputError(
                f"{out}: holds the input {path}; inputs are never overwritten, choose another name", path=out
            )
        if source in target.parents and not (source / _MERGED).exists():  # `merge --gguf` has its files in its output
            raise OutputError(
                f"{out}: lies in the input {path}, which is never changed; choose another place", path=out
            )


def check_place(out: Path) -> None:
    """Raises OutputError where `out` has no folder that it can be created in."""
    parent = next(folder for folder in out.absolute().parents if os.path.lexists(folder))
    if not parent.is_dir():
        raise OutputError(f"{out}: cannot be created: {parent} is not a folder", path=out)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{out}: cannot be created: {parent} cannot be written to", path=out)
