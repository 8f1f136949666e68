"""The code blocks of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# ([\w-]+\.ya?ml)\n")


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every block with a language."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def save_recipes(page: Path, folder: Path) -> None:
    for language, text in blocks(page):
        if language == "yaml" and (name := FILE_NAME.match(text)):
            (folder / name[1]).write_text(text, encoding="utf-8")
