"""`weightsmith clean`: remove files of an export that are no longer needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from weightsmith.errors import OutputError
from weightsmith.files.suggestions import nearest
from weightsmith.gguf.manifest import NAME, Manifest, ManifestEntry


def removable(folder: Path, keep: Sequence[str]) -> list[ManifestEntry]:
    """The files of `folder`'s manifest that are of none of the types `keep`; nothing else in it is ever touched. Raises
    OutputError where there is no manifest, or nothing to keep of a type."""
    if not (folder / NAME).is_file():
        raise OutputError(
            f"{folder}: has no {NAME}; `weightsmith export` makes one in the folder it writes to", path=folder
        )
    entries = [entry for entry in Manifest(folder).entries.values() if (folder / entry.file).exists()]
    kept = {gguf_type.lower() for gguf_type in keep}
    for gguf_type in kept:
        if gguf_type not in (types := {entry.type for entry in entries}):
            raise OutputError(
                f"{folder}: holds no {gguf_type}{nearest(gguf_type, types)}; it has: {', '.join(sorted(types))}",
                path=folder,
            )
    return [entry for entry in entries if entry.type not in kept]


def remove(folder: Path, entries: Sequence[ManifestEntry]) -> None:
    """The files and their entries in the manifest."""
    manifest = Manifest(folder)
    for entry in entries:
        manifest.remove(entry.file)
