"""A folder that one command at a time fills file by file, such as an evaluation's."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from weightsmith.errors import OutputError, WeightsmithError
from weightsmith.files.folder_lock import FolderInUse, folder_lock

LOCK = ".lock"


@contextmanager
def work_folder(folder: Path, *, is_worth_keeping: Callable[[], bool]) -> Iterator[None]:
    """Create `folder` where it is not there, and hold it against other commands until the block ends.

    Where the block is refused (a WeightsmithError) and nothing in the folder `is_worth_keeping`, a folder that was not
    there, or was empty, is so again. Raises OutputError where another command holds it, or it cannot be created."""
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    was_empty = not entries_of(folder)
    with ExitStack() as stack:
        try:
            scratch = folder.with_name(f".{folder.name}.partial")  # of a merge
            if scratch.is_dir() and not scratch.is_symlink():
                with folder_lock(scratch):
                    pass
            stack.enter_context(folder_lock(folder, owner_file=LOCK))
        except FolderInUse as error:
            raise in_use(folder, error) from None
        except OSError as error:
            raise OutputError(f"{folder}: cannot be created: {error.strerror}", path=folder) from error
        try:
            yield
        except WeightsmithError:
            if was_empty and not is_worth_keeping():
                _empty(folder, missing)
            raise
        finally:
            (folder / LOCK).unlink(missing_ok=True)


def entries_of(folder: Path) -> list[str]:
    """The names of what a folder holds, but for what a command that was killed left of its hold on it."""
    return sorted(entry.name for entry in folder.iterdir() if entry.name != LOCK) if folder.is_dir() else []


def in_use(folder: Path, error: FolderInUse) -> OutputError:
    """The refusal of a folder or file that another command writes."""
    owner = f" (process {error.owner})" if error.owner else ""
    return OutputError(
        f"{folder}: another weightsmith command{owner} is writing there; wait for it, or choose another name",
        path=folder,
    )


def _empty(folder: Path, missing: list[Path]) -> None:
    """Take away what is in `folder`, and the folders that were `missing`."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    with contextlib.suppress(OSError):  # where somebody else put something there meanwhile
        for path in missing:
            path.rmdir()
