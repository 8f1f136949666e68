"""Where the files of an export go: one .gguf file, or a folder of them with a manifest."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weightsmith.errors import ExportError, OutputError
from weightsmith.export.manifest import Entry, Manifest


class Shelf:
    """`kinds`: the types that were asked for, of which a single file can only be one."""

    def __init__(self, out: Path, name: str, kinds: list[str], *, force: bool) -> None:
        self._single, self._name, self._force = out.suffix == ".gguf", name, force
        self._out, self._kinds = out, kinds
        if self._single and len(kinds) > 1:
            raise OutputError(f"{out}: is one file, but {len(kinds)} types are asked for; give a folder")
        self.folder = out.parent if self._single else out
        if self.folder.exists() and not self.folder.is_dir():
            raise OutputError(f"{self.folder}: exists and is not a folder")
        self.manifest = None if self._single or not self.folder.exists() else Manifest(self.folder)

    def path(self, kind: str) -> Path:
        """NAME-TYPE.gguf; of a single file's intermediate: its name with the other type in it."""
        if not self._single:
            return self._out / f"{self._name}-{kind}.gguf"
        if kind in self._kinds:
            return self._out
        stem, own = self._out.stem, self._kinds[0]
        stem = stem[: -len(own)] + kind if stem.lower().endswith(own) else f"{stem}-{kind}"
        return self._out.with_name(f"{stem}.gguf")

    def fits(self, kind: str, key: str) -> Entry | None:
        """The entry of what is there and need not be made again."""
        return self.manifest.fits(self.path(kind).name, key) if self.manifest else None

    def check_free(self, kind: str) -> None:
        """Raises OutputError where a file of another origin lies."""
        path = self.path(kind)
        ours = self.manifest is not None and path.name in self.manifest.entries
        if path.exists() and not (ours or self._force):
            raise OutputError(f"{path}: exists; choose another name, or replace it with --force")

    def put(
        self, kind: str, make: Callable[[Path], dict[str, Any]], *, how: str, source: tuple[str, ...], key: str
    ) -> dict[str, Any]:
        """Have `make` write a file, which gets its name when it is whole; returns what `make` found out about it, where `sha256`, if
        it is known, is the file's."""
        path = self.path(kind)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):  # of a run that was killed
            left.unlink()
        # A name of its own: what a killed run started may still be writing.
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            found = make(partial)
            sha256 = found.pop("sha256", None)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            if self.manifest:
                self.manifest.add(path.name, partial, kind, how, source, key, found, sha256)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return found

    def make_folder(self) -> None:
        """Raises OutputError where that cannot be done."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be created: {error.strerror}") from error
        if not self._single and self.manifest is None:
            self.manifest = Manifest(self.folder)

    def drop(self, kind: str) -> None:
        """Remove a file that nobody asked to keep."""
        path = self.path(kind)
        if self.manifest and path.name in self.manifest.entries:
            self.manifest.remove(path.name)
        path.unlink(missing_ok=True)


def check_name(name: str) -> str:
    """A model's name as part of a file's. Raises ExportError where it cannot be one."""
    if not name or Path(name).name != name:
        raise ExportError(f"{name!r} cannot be part of a file's name; give one with --name")
    return name
