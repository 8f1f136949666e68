"""The messages of docs/errors.md are those that its recipes get."""

from __future__ import annotations

import fnmatch
import re
import shutil
from pathlib import Path

from tests.code_blocks import ROOT
from tests.conftest import weightsmith_process
from weightsmith.demo.run_demo import PACKAGE

BASE = "base_model: base\n"
RECIPES = {
    "a.yml": "merge_method: tiez\nbase_model: base\nmodels: [{model: coder}]\n",
    "b.yml": "merge_method: ties\nmodels: [{model: coder, parameters: {weight: 1}}]\n",
    "c.yml": "merge_method: ties\nbase_model: base\nmodels: [{model: coder, parameters: {weight: 1, densty: 0.5}}]\n",
    "d.yml": "merge_method: linear\nmodels: [{model: nowhere/at/all, parameters: {weight: 1}}]\n",
    "e.yml": "merge_method: task_arithmetic\nmodels: [{model: adapters/dates, parameters: {weight: 1}}]\nbase_model: base\n",
    "f.yml": "merge_method: task_arithmetic\nmodels: [{model: deep.gguf, parameters: {weight: 1}}]\nbase_model: base\n",
}


def test_messages_of_recipes(docs_folder: Path, smollm: Path) -> None:
    shutil.copytree(PACKAGE / "adapters" / "dates", docs_folder / "adapters" / "dates")
    (docs_folder / "deep.gguf").symlink_to(smollm)
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(([a-z]\.yml):.*?)` \|", page, re.MULTILINE)
    assert [name for _, name in rows] == list(RECIPES)
    for message, name in rows:
        (docs_folder / name).write_text(RECIPES[name], encoding="utf-8")
        result = weightsmith_process("merge", name, "merged", cwd=docs_folder)
        said = result.stderr.strip().removeprefix("weightsmith: ")
        pattern = "".join(
            "*" if part == "..." else f"{part}".replace("[", "[[]") for part in re.split(r"(\.\.\.)", message)
        )
        assert result.returncode == 2 and fnmatch.fnmatchcase(said, pattern + "*"), f"{said}\nis not\n{message}"
