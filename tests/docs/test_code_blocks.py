"""Every code block of the documentation that can run is run, page by page, as a reader pastes it.

`sh` and `python` blocks run in one folder per page, with the models and files that the pages speak of; a YAML block that begins with
`# name.yml` is that file. Blocks marked `console` show a session and are not run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from weightsmith.files.yaml_file import read_yaml
from weightsmith.recipe.recipe import Recipe, Tokenizer
from weightsmith.recipe_search.search_file import SearchFile

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# ([\w-]+\.ya?ml)\n")
RUN = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
RUNNING_PAGES = [page for page in PAGES if any(f"```{name}\n" in page.read_text(encoding="utf-8") for name in RUN)]


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every block with a language."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path, chat_models: Path, questions: Path) -> Path:
    """What a reader has: a base model, two fine-tunes, questions and a text; and the quickstart's recipe."""
    for name, source in (("base", "base"), ("coder", "a"), ("writer", "b")):
        shutil.copytree(chat_models / source, tmp_path / name)
    rows = questions.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "skill.jsonl").write_text("".join(rows * 8), encoding="utf-8")
    (tmp_path / "novel.txt").write_text("It was a bright cold day in April. " * 60, encoding="utf-8")
    save_recipes(ROOT / "docs/quickstart.md", tmp_path)
    return tmp_path


def save_recipes(page: Path, folder: Path) -> None:
    for language, text in blocks(page):
        if language == "yaml" and (name := FILE_NAME.match(text)):
            (folder / name[1]).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("page", RUNNING_PAGES, ids=lambda page: page.stem)
def test_a_page_runs_as_it_is_pasted(page: Path, folder: Path) -> None:
    save_recipes(page, folder)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for language, text in blocks(page):
        if language in RUN:
            process = subprocess.run(
                [*RUN[language], text],
                cwd=folder,
                env=os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert process.returncode == 0, f"{text}\n{process.stdout}\n{process.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_recipes_and_data_follow_their_schema(page: Path, tmp_path: Path) -> None:
    for language, text in blocks(page):
        assert language in (*RUN, "console", "yaml", "json", "text"), (
            f"{page.name}: a block in {language} is not tested"
        )
        if language == "json":
            json.loads(text)
        if language == "yaml":
            (tmp_path / "block.yml").write_text(text, encoding="utf-8")
            file = read_yaml(tmp_path / "block.yml")
            if "merge_method" in file.tree:
                file.validate(Recipe)
            elif "objective" in file.tree:
                file.validate(SearchFile)
            elif "tokenizer" in file.tree:
                Tokenizer.model_validate(file.tree["tokenizer"])
