"""An output that appears under its name only when it is whole, and whose unfinished form survives the process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from weightsmith.engine.output.checksums import CHECKSUMS
from weightsmith.engine.output.journal import JOURNAL, Record, read_journal
from weightsmith.errors import OutputError, ProcessKilledError
from weightsmith.files.folder_lock import FolderInUse, folder_lock
from weightsmith.files.output_folder import check_output, check_space, put_in_place, reporting_full_disk
from weightsmith.files.work_folder import entries_of, in_use


@dataclass(frozen=True)
class Scratch:
    """The folder to write into, and the tensors that an earlier run of the same kind has finished."""

    folder: Path
    finished: dict[str, Record]
    resumed: bool


def scratch_of(out: Path) -> Path:
    """Where the unfinished form of `out` lies."""
    return out.absolute().parent / f".{out.name}.partial"


@contextmanager
def resumable_folder(
    out: Path,
    run: Mapping[str, str],
    *,
    force: bool,
    restart: bool,
    weights_bytes: int,
    beside: int,
    inputs: Sequence[Path],
) -> Iterator[Scratch]:
    """The scratch folder of `out`, renamed to `out` on success. After Ctrl-C, or where the process is killed, it stays,
    and the same `run` resumes from its journal; after any other failure it is removed.

    Raises OutputError where `out` is in use, the disk has no room for `weights_bytes` and what lies `beside` the
    weights, another process is writing it, or another run was interrupted there (unless `restart`, which discards
    that).
    """
    out = out.absolute()
    check_output(out, force=force, inputs=inputs)
    folder = scratch_of(out)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputError(f"{folder}: is in the way of the unfinished output, which lies there; remove it", path=folder)
    with _only_process(out, folder):
        keep, was_there = False, bool(entries_of(out))
        try:
            if not _is_ours(folder):
                keep = True
                raise OutputError(
                    f"{folder}: holds files that weightsmith did not write, and is where the unfinished output lies; "
                    "move them elsewhere",
                    path=folder,
                )
            interrupted = None if restart else read_journal(folder)
            if interrupted and interrupted[0] != dict(run):
                keep = True
                changed = ", ".join(sorted(key for key in run if interrupted[0].get(key) != run[key])) or "the program"
                raise OutputError(
                    f"{out}: a run that was interrupted lies in {folder}, and this is another one ({changed} changed "
                    "since). Run that one again to resume it, or discard it with --restart",
                    path=out,
                )
            if not interrupted:
                (folder / JOURNAL).touch()  # from here on it is known as ours
                for entry in folder.iterdir():
                    if entry.name != JOURNAL:
                        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            free = shutil.disk_usage(folder).free + sum(map(_bytes_on_disk, folder.iterdir()))
            keep = interrupted is not None
            check_space(out, weights_bytes, free, beside=beside)
            keep = False
            with reporting_full_disk(out):
                try:
                    yield Scratch(folder, interrupted[1] if interrupted else {}, interrupted is not None)
                except (KeyboardInterrupt, ProcessKilledError):
                    keep = True
                    raise
                if not was_there and entries_of(out):
                    keep = True
                    raise OutputError(
                        f"{out}: was written by something else meanwhile; move it elsewhere and run again, which "
                        "takes what is finished",
                        path=out,
                    )
                (folder / JOURNAL).unlink(missing_ok=True)
                put_in_place(folder, out)
        finally:
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Whether a run of ours left what is in the folder: its journal is there, or all of it but the new name."""
    names = {entry.name for entry in folder.iterdir()}
    return not names or bool(names & {JOURNAL, CHECKSUMS})


def _bytes_on_disk(path: Path) -> int:
    state = path.lstat()
    return state.st_blocks * 512 if hasattr(state, "st_blocks") else state.st_size  # Windows has no st_blocks


@contextmanager
def _only_process(out: Path, folder: Path) -> Iterator[None]:
    """Hold `folder`; errors name `out`."""
    with ExitStack() as stack:
        try:
            if out.is_dir():
                stack.enter_context(folder_lock(out))
            stack.enter_context(folder_lock(folder))
        except FolderInUse as error:
            raise in_use(out, error) from None
        except OSError as error:
            raise OutputError(f"{out}: cannot be written: {error.strerror}", path=out) from error
        yield
