"""Every code block of the documentation that can run is run, page by page, as a reader pastes it.

`sh` and `python` blocks run in one folder per page, with the models and files that the pages speak of; a YAML block that
begins with `# name.yml` is that file. `weightsmith` and scripts are forked from a warm process (tests/commands/test_wheel.py runs the
installed program). Blocks marked `console` show a session and are not run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.code_blocks import ROOT, blocks, save_recipes
from tests.warm_process import warm_process
from weightsmith.files.inputs.yaml_file import read_yaml
from weightsmith.recipe.recipe_schema import RecipeSchema, Tokenizer
from weightsmith.recipe_search.search_file import SearchFile

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
RUNNING_PAGES = [page for page in PAGES if any(f"```{name}\n" in page.read_text(encoding="utf-8") for name in RUN)]


@pytest.mark.parametrize("page", RUNNING_PAGES, ids=lambda page: page.stem)
def test_a_page_runs_as_it_is_pasted(page: Path, docs_folder: Path) -> None:
    save_recipes(page, docs_folder)
    run = RUN | {"python": warm_process().module_command("-c")}
    path = os.pathsep.join(map(str, (warm_process().programs, Path(sys.executable).parent, os.environ["PATH"])))
    for language, text in blocks(page):
        if language in run:
            process = subprocess.run(
                [*run[language], text],
                cwd=docs_folder,
                env=os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert process.returncode == 0, f"{text}\n{process.stdout}\n{process.stderr}"


def test_a_translation_has_commands_that_run() -> None:
    """Its console blocks have the commands of pages that run, or of tests/demo; how to install is tried in a fresh clone."""
    english = {command for page in RUNNING_PAGES for command in _commands(page, "sh")}
    english |= {"weightsmith run demo/pipeline.yml demo"}
    for page in (ROOT / "docs" / "zh").glob("*.md"):
        other = set(_commands(page, "console")) - english
        assert all(command.startswith(("make ", "pip ", "uv ")) for command in other), other


def _commands(page: Path, wanted: str) -> list[str]:
    lines = [
        line.partition("  #")[0].strip() for name, text in blocks(page) if name == wanted for line in text.splitlines()
    ]
    return [line.removeprefix("$ ") for line in lines if wanted == "sh" or line.startswith("$ ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_recipes_and_data_follow_their_schema(page: Path, tmp_path: Path) -> None:
    for language, text in blocks(page):
        assert language in (*RUN, "console", "yaml", "json", "text", "toml"), (
            f"{page.name}: a block in {language} is not tested"
        )
        if language == "toml":
            tomllib.loads(text)
        if language == "json":
            json.loads(text)
        if language == "yaml":
            (tmp_path / "block.yml").write_text(text, encoding="utf-8")
            file = read_yaml(tmp_path / "block.yml", several=True)
            if "merge_method" in file.tree:
                file.validate(RecipeSchema)
            elif "objective" in file.tree:
                file.validate(SearchFile)
            elif "tokenizer" in file.tree:
                Tokenizer.model_validate(file.tree["tokenizer"])
