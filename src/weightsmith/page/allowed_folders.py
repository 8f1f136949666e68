"""What the page may read: the folders that were given at its start, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from weightsmith.errors import RecipeError
from weightsmith.files.find_path import find_path
from weightsmith.files.inputs.yaml_file import YamlFile, parse_yaml

_OUTSIDE_THE_PAGE = {
    "include": "takes other files",
    "data": "takes files of tasks from a folder",
}
_DEPTH, _MOST = 4, 500  # of folders that are looked through; of models and files that are found
_WEIGHTS = (".safetensors", ".bin")


class AllowedFolders:
    """`roots`: the folders, `home`: the one that relative paths begin at.

    >>> AllowedFolders([Path("models")], home=Path("runs")).holds("/etc/passwd")
    False
    """

    def __init__(self, roots: Sequence[Path], *, home: Path) -> None:
        self.home = home.resolve()
        self.roots = tuple(dict.fromkeys([*(root.resolve() for root in roots), self.home]))

    def holds(self, path: Path | str) -> bool:
        """Whether a path, after links, lies in one of the folders."""
        try:
            real = (self.home / path).resolve()  # what is relative begins at home
        except (OSError, RuntimeError, ValueError):
            return False
        return any(real.is_relative_to(root) for root in self.roots)

    def check_reference(self, reference: str) -> None:
        """Raises RecipeError where a model's reference has a part that is a path outside. Hub ids pass."""
        for part in _parts(reference):
            if self._leads_outside(part):
                raise RecipeError(f"{part}: {self._why()}")

    def check_pipeline(self, text: str, path: Path) -> YamlFile:
        """The parsed pipeline, of which no value is a path outside. `path` names it in messages. Raises RecipeError."""
        file = parse_yaml(path, text)
        for keys, value in _texts(file.tree):
            if key := next((str(key) for key in keys if key in _OUTSIDE_THE_PAGE), None):
                raise file.error(
                    list(keys), f"{key}: {_OUTSIDE_THE_PAGE[key]}, which the page does not; use the command line"
                )
            for part in _parts(value):
                if self._leads_outside(part):
                    raise file.error(list(keys), f"{part}: {self._why()}")
        merge = file.tree.get("merge")
        if isinstance(merge, str):
            raise file.error(["merge"], "the page takes the recipe itself, not the name of a file")
        return file

    def models(self) -> list[Path]:
        """Model folders, adapters and GGUF files in the folders, in the order of their names."""
        found = []
        for folder, _, names in self._walk():
            if "adapter_config.json" in names or ("config.json" in names and any(n.endswith(_WEIGHTS) for n in names)):
                found.append(folder)
            found += [folder / name for name in names if name.lower().endswith(".gguf")]
        return sorted(found)[:_MOST]

    def files(self, *endings: str) -> list[Path]:
        """Files with one of the `endings`, such as `.jsonl`."""
        return sorted(folder / name for folder, _, names in self._walk() for name in names if name.endswith(endings))[
            :_MOST
        ]

    def short(self, path: Path) -> str:
        """A path as people know it: from the folder that was given on.

        >>> AllowedFolders([Path("/data/models")], home=Path("/runs")).short(Path("/data/models/phi-2/coder"))
        'models/phi-2/coder'
        """
        for root in self.roots:
            if path.is_relative_to(root):
                return str(Path(root.name, path.relative_to(root)))
        return path.name

    def _walk(self) -> Iterator[tuple[Path, list[str], list[str]]]:
        for root in self.roots:
            for folder, folders, names in os.walk(root):
                here = Path(folder)
                folders[:] = [name for name in sorted(folders) if not name.startswith(".")]
                if len(here.relative_to(root).parts) >= _DEPTH:
                    folders.clear()
                yield here, folders, sorted(names)

    def _leads_outside(self, text: str) -> bool:
        """Whether `text` would be taken for a path, and for one that is not in the folders."""
        if not text or len(text) > os.pathconf("/", "PC_PATH_MAX"):
            return False
        written_out = os.path.expanduser(os.path.expandvars(text))
        if os.path.isabs(written_out) or ".." in Path(written_out).parts or written_out != text:
            return not self.holds(written_out)  # whether it is there is not told
        found = find_path(text, self.home)  # as whoever opens it finds it: from the working folder first
        return found is not None and not self.holds(found.absolute())

    def _why(self) -> str:
        return f"is not in the folders that the page was started with ({', '.join(root.name for root in self.roots)})"


def _parts(reference: str) -> list[str]:
    """A reference, its base and its adapters, each with and without a revision."""
    parts = [reference, *reference.split("+")]
    return list(dict.fromkeys([*parts, *(part.partition("@")[0] for part in parts)]))


def _texts(tree: Any, keys: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every text in a tree, with the keys that lead to it; keys count too, as their own value."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield (*keys, key), str(key)
            yield from _texts(value, (*keys, key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _texts(value, (*keys, number))
    elif isinstance(tree, str):
        yield keys, tree
