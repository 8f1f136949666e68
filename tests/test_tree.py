"""The rules that make the tree (docs/architecture.md): a newcomer finds a file by its folder and name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import weightsmith
from weightsmith.commands.app import command_names

PACKAGE = Path(weightsmith.__file__).parent
MODULES = [path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py")]


def test_no_folder_has_the_name_of_a_public_function() -> None:
    folders = {path.name for path in PACKAGE.rglob("*") if path.is_dir()}
    assert folders.isdisjoint(weightsmith.__all__)


def test_only_a_command_shares_its_file_name_with_what_it_runs() -> None:
    places = Counter(path.stem for path in MODULES)
    commands = command_names()
    assert {name for name, count in places.items() if count > (2 if name in commands else 1)} == set()
    assert all((PACKAGE / "commands" / f"{name}.py").exists() for name in commands)


def test_folders_hold_ten_files_or_fewer() -> None:
    """The commands are many, and all of one role."""
    sizes = Counter(path.parent.relative_to(PACKAGE).as_posix() for path in MODULES)
    assert {folder: count for folder, count in sizes.items() if count > 10 and folder != "commands"} == {}
