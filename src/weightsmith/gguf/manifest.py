"""`manifest.json` of a folder of GGUF files: what each is, how it was made and from what; and whether it still fits."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from weightsmith.errors import ExportError, shown
from weightsmith.files.digests import file_digest
from weightsmith.files.find_path import is_file_name
from weightsmith.files.inputs.read_input import read_json
from weightsmith.files.write_whole import write_whole
from weightsmith.version import __version__

NAME = "manifest.json"


@dataclass(frozen=True)
class ManifestEntry:
    """`type`: of GGUF, or imatrix; `key` names all that the content depends on; `modified` in nanoseconds, by which a
    file is known without reading it again; `source`: the files it was made from; `measured`: what was measured of
    it."""

    file: str
    type: str
    bytes: int
    sha256: str
    how: str
    source: tuple[str, ...]
    key: str
    modified: int
    measured: dict[str, Any] = field(default_factory=dict)


_RECORD = TypeAdapter(ManifestEntry)


class Manifest:
    """The entries of one folder, on the disk after each change."""

    def __init__(self, folder: Path) -> None:
        """Raises ExportError where there is a manifest that cannot be read."""
        self._folder = folder
        self.entries: dict[str, ManifestEntry] = {}
        path = folder / NAME
        if not path.exists():
            return
        try:
            for entry in read_json(path, error=ExportError)["files"]:
                measured = entry.pop("found", {})  # what `measured` was called at first
                record = _RECORD.validate_python({"measured": measured} | entry, strict=False)
                self.entries[record.file] = record
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ExportError(
                f"{path}: is not a manifest that weightsmith wrote; remove it, or choose another folder", path=path
            ) from error
        for name in self.entries:
            if not is_file_name(name):
                raise ExportError(f"{path}: {shown(name)} is not the name of a file in its folder", path=path)

    def fits(self, file: str, key: str) -> ManifestEntry | None:
        """The entry of a file that is there, unchanged, and was made in the same way from the same."""
        entry = self.entries.get(file)
        return entry if entry and entry.key == key and self._unchanged(entry) else None

    def add(
        self,
        file: str,
        content: Path,
        type: str,
        how: str,
        source: tuple[str, ...],
        key: str,
        measured: dict[str, Any],
        sha256: str | None,
    ) -> None:
        """Note `content`, which becomes `file` when it is renamed next: a run that is killed in between leaves an entry
        that fits nothing, rather than a file that nobody knows."""
        if sha256 is None:
            sha256 = file_digest(content)
        state = content.stat()
        self.entries[file] = ManifestEntry(
            file, type, state.st_size, sha256, how, source, key, state.st_mtime_ns, measured
        )
        self.save()

    def remove(self, file: str) -> None:
        """The file and its entry; the entry first."""
        del self.entries[file]
        self.save()
        (self._folder / file).unlink(missing_ok=True)

    def save(self) -> None:
        """Write the manifest in one step."""
        content = {"weightsmith": __version__, "files": [asdict(entry) for entry in self.entries.values()]}
        write_whole(self._folder / NAME, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def _unchanged(self, entry: ManifestEntry) -> bool:
        path = self._folder / entry.file
        if not path.is_file() or path.stat().st_size != entry.bytes:
            return False
        if path.stat().st_mtime_ns == entry.modified:
            return True
        return file_digest(path) == entry.sha256  # copied, perhaps
