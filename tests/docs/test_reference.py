"""The reference, the changelog and the list of files: what the docs say of the code is so."""

from __future__ import annotations

import re
import tomllib
from importlib import util
from pathlib import Path

import pytest
from packaging.version import Version

import weightsmith
from weightsmith.methods.registry import METHODS

ROOT = Path(__file__).parents[2]


def _reference_script():
    spec = util.spec_from_file_location("write_reference", ROOT / "scripts/write_reference.py")
    assert spec and spec.loader
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["commands.md", "methods.md", "recipe.md"])
def test_the_reference_is_what_the_code_says(page: str) -> None:
    written = (ROOT / "docs/reference" / page).read_text(encoding="utf-8")
    assert written == _reference_script().PAGES[page](), "run scripts/write_reference.py"


def test_every_method_says_when_to_take_it() -> None:
    assert [name for name, method in METHODS.items() if not method.advice or not method.paper] == []


def test_the_changelog_has_an_entry_for_the_last_release() -> None:
    """A copy without git is of that version; one with git is of it or comes after it."""
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]
    release = re.fullmatch(r"(\S+) \(\d{4}-\d\d-\d\d\)", released[0])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert release and release[1] == project["tool"]["hatch"]["version"]["fallback-version"]
    assert Version(weightsmith.__version__) >= Version(release[1])


def test_files_that_the_docs_name_exist() -> None:
    """Paths in backticks that look like files of the package, of the tests, or of the scripts."""
    missing = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for path in re.findall(r"`([a-z_]+(?:/[\w.-]+)+\.(?:py|json|yaml))`", page.read_text(encoding="utf-8")):
            if "NAME" not in path and not any((place / path).exists() for place in (ROOT, ROOT / "src/weightsmith")):
                missing.append(f"{page.name}: {path}")
    assert missing == []
