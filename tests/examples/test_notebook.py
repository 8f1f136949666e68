"""The notebook of examples/, executed on the demo's models."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.code_blocks import ROOT
from weightsmith.demo.run_demo import PACKAGE

NOTEBOOK = ROOT / "examples/weightsmith.ipynb"


def executed(folder: Path, changed: dict[str, str]) -> nbformat.NotebookNode:
    """The notebook after its cells ran in `folder`; `changed`: the lines that a user edits, by what they begin with."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cell = notebook.cells[1]
    head, line, rest = cell.source.partition("\n# -----")
    begin, end = head.index('RECIPE = """'), head.index('"""\nGGUF') + 4
    head = f"{head[:begin]}RECIPE = {changed['RECIPE']!r}\n{head[end:]}"
    lines = [f"{name} = {value}" if (name := text.split(" ")[0]) in changed and name != "RECIPE" else text
             for text in head.splitlines() for value in [changed.get(text.split(" ")[0], "")]]  # fmt: skip
    cell.source = "\n".join(lines) + line + rest
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return notebook


def printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") for output in notebook.cells[1].outputs)


@pytest.fixture(scope="module")
def recipe(smollm: Path) -> str:
    models = "".join(
        f"  - model: {smollm}+{PACKAGE / 'adapters' / skill}\n    parameters: {{weight: 1.0, density: 0.5}}\n"
        for skill in ("dates", "records")
    )
    return f"merge_method: ties\nbase_model: {smollm}\nmodels:\n{models}dtype: float32\n"


def test_it_runs_and_shows_the_report(recipe: str, tmp_path: Path) -> None:
    rows = (PACKAGE / "data/dates.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "dates.jsonl").write_text("".join(rows[:4]), encoding="utf-8")
    notebook = executed(tmp_path, {"RECIPE": recipe, "GGUF": "['q8_0']", "QUESTIONS": "['dates.jsonl']"})
    text = printed(notebook)
    assert "merge: done in" in text and "export q8_0: done in" in text and "report: done in" in text
    (page,) = [output.data["text/html"] for output in notebook.cells[1].outputs if "data" in output]
    assert "<h2>Scores</h2>" in page and str(tmp_path) not in page and str(smollm_folder(recipe)) not in page
    assert (tmp_path / "my-merge/gguf/merged-q8_0.gguf").exists() and (tmp_path / "my-merge/merged/README.md").exists()


def smollm_folder(recipe: str) -> Path:
    return Path(recipe.split("base_model: ")[1].split("\n")[0]).parent


def test_what_goes_wrong_is_one_sentence(tmp_path: Path) -> None:
    recipe = "merge_method: tis\nmodels: [{model: a}]\n"
    notebook = executed(tmp_path, {"RECIPE": recipe, "GGUF": "[]"})
    assert printed(notebook).strip() == (
        "weightsmith: my-merge.yml:1: unknown merge_method 'tis'; did you mean 'ties'?"
    )


def test_it_was_not_run_when_it_was_saved() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert [cell.get("outputs") for cell in notebook.cells] == [None, []]
