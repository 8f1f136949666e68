"""Where the files of an export go: one .gguf file, or a folder of them with a manifest."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from weightsmith.errors import ExportError, OutputError, shown
from weightsmith.files.find_path import is_file_name
from weightsmith.files.folder_lock import FolderInUse, file_lock
from weightsmith.files.work_folder import in_use, work_folder
from weightsmith.files.write_whole import writing_whole
from weightsmith.gguf.manifest import Manifest, ManifestEntry


class OutputFiles:
    """`types`: the types that were asked for, of which a single file can only be one."""

    def __init__(self, out: Path, name: str, types: list[str], *, force: bool) -> None:
        self._single, self._name, self._force = out.suffix == ".gguf", name, force
        self._out, self._types = out, types
        if self._single and len(types) > 1:
            raise OutputError(f"{out}: is one file, but {len(types)} types are asked for; give a folder", path=out)
        self.folder = out.parent if self._single else out
        if self.folder.exists() and not self.folder.is_dir():
            raise OutputError(f"{self.folder}: exists and is not a folder", path=self.folder)
        self.manifest = None if self._single or not self.folder.exists() else Manifest(self.folder)

    def path(self, gguf_type: str) -> Path:
        """NAME-TYPE.gguf; of a single file's intermediate: its name with the other type in it."""
        if not self._single:
            return self._out / f"{self._name}-{gguf_type}.gguf"
        if gguf_type in self._types:
            return self._out
        stem, first_type = self._out.stem, self._types[0]
        stem = stem[: -len(first_type)] + gguf_type if stem.lower().endswith(first_type) else f"{stem}-{gguf_type}"
        return self._out.with_name(f"{stem}.gguf")

    def fits(self, gguf_type: str, key: str) -> ManifestEntry | None:
        """The entry of a file that is up to date."""
        return self.manifest.fits(self.path(gguf_type).name, key) if self.manifest else None

    def check_free(self, gguf_type: str) -> None:
        """Raises OutputError where a file of another origin lies."""
        path = self.path(gguf_type)
        ours = self.manifest is not None and path.name in self.manifest.entries
        if path.exists() and not (ours or self._force):
            raise OutputError(f"{path}: exists; choose another name, or replace it with --force", path=path)

    def put(
        self, gguf_type: str, make: Callable[[Path], dict[str, Any]], *, how: str, source: tuple[str, ...], key: str
    ) -> dict[str, Any]:
        """Have `make` write a file, which gets its name when it is whole; returns what `make` found out about it, where
        `sha256`, if it is known, is the file's."""
        path = self.path(gguf_type)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):  # of a run that was killed
            try:
                with file_lock(left):
                    left.unlink()
            except FolderInUse as error:
                raise in_use(path, error) from None
        # A name of its own: what a killed run started may still be writing.
        name = path.with_name(f".{path.name}.{os.getpid()}.partial")
        with writing_whole(path, name) as partial, file_lock(partial):
            measured = make(partial)
            sha256 = measured.pop("sha256", None)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            if self.manifest:
                self.manifest.add(path.name, partial, gguf_type, how, source, key, measured, sha256)
        return measured

    def held(self) -> AbstractContextManager[None]:
        """While it lasts, no other command writes into the folder of an export."""
        if self._single:
            return nullcontext()
        return work_folder(self.folder, is_worth_keeping=lambda: any(self.folder.glob("*.gguf")))

    def make_folder(self) -> None:
        """Raises OutputError where that cannot be done."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be created: {error.strerror}", path=self.folder) from error
        if not self._single and self.manifest is None:
            self.manifest = Manifest(self.folder)

    def drop(self, gguf_type: str) -> None:
        """Remove a file that was only needed on the way."""
        path = self.path(gguf_type)
        if self.manifest and path.name in self.manifest.entries:
            self.manifest.remove(path.name)
        path.unlink(missing_ok=True)


def check_name(name: str) -> str:
    """A model's name as part of a file's. Raises ExportError where it cannot be one."""
    if not is_file_name(name):
        raise ExportError(f"{shown(name)} cannot be part of a file name; give a name with --name")
    return name
