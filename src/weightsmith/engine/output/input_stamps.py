"""Whether the files that a run reads are still those that it began with."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from weightsmith.engine.output.run_digest import files_of
from weightsmith.errors import MergeError
from weightsmith.models.model import Model

_Stamp = tuple[int, int, int]


class InputStamps:
    """Size, time of change and inode of every file of weights, as they were when this was made."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._stamps: dict[Path, _Stamp | None] = {}
        for model in models:
            for path_of_model in model.files:
                self._stamps |= {path: _stamp(path) for path in files_of(path_of_model)}

    def check(self) -> None:
        """Raises MergeError, naming the file, where one has changed."""
        for path, stamp in self._stamps.items():
            now = _stamp(path)
            if now != stamp:
                what = "is gone" if now is None else "was changed"
                raise MergeError(
                    f"{path}: {what} while it was read, so the output would be of two models; run again when nothing "
                    "writes there",
                    path=path,
                )


def _stamp(path: Path) -> _Stamp | None:
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns, state.st_ino
