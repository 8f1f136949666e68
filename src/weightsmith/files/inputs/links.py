"""Links in a folder that somebody else made: one that leads out of it would have a merge copy any file of this machine
into its output."""

from __future__ import annotations

import os
from pathlib import Path

from weightsmith.errors import CheckpointError

_MAX_FILES = 20_000
_DEPTH = 3  # folders below a model's own whose files are read or copied


def check_links(folder: Path) -> None:
    """Raises CheckpointError for a link to a file outside of `folder`. The cache of the hub has such links, from
    `snapshots/REVISION` to `blobs`; they are followed."""
    home = folder.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    count = 0
    for root, folders, files in os.walk(folder):
        depth = len(Path(root).relative_to(folder).parts)
        if depth >= _DEPTH:
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (*files, *folders):
            count += 1
            path = Path(root, name)
            if not path.is_symlink() or path.is_socket():
                continue
            target = Path(os.path.realpath(path))
            if not any(target == place or place in target.parents for place in allowed):
                raise CheckpointError(
                    f"{path}: is a link that leads out of the model's folder, to {target}; if that file belongs to the "
                    "model, put a copy of it there",
                    path=path,
                )
        if count > _MAX_FILES:
            raise CheckpointError(
                f"{folder}: holds more than {_MAX_FILES:,} files; is it a model's folder?", path=folder
            )
