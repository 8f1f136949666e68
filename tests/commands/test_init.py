"""`weightsmith init`: recipes and pipelines that run, from options or from a terminal's answers."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import weightsmith as ws
from tests.conftest import stderr_lines, weightsmith_process
from tests.hostile.builders import write_adapter, write_model
from weightsmith.methods.registry import METHODS
from weightsmith.recipe.draft_recipe import draft_pipeline, draft_recipe


def init(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return weightsmith_process("init", *arguments, cwd=folder)


def test_a_recipe_that_merges(models: Path, tmp_path: Path) -> None:
    options = ["--base", models / "base", "--model", models / "a", "--model", models / "b", "--method", "ties"]
    done = init(tmp_path, "r.yml", *options)
    assert done.returncode == 0 and "weightsmith merge r.yml r" in done.stdout, done.stderr
    text = (tmp_path / "r.yml").read_text()
    assert "#   density: 1" in text and "weight: 0.5" in text
    assert ws.merge(tmp_path / "r.yml", tmp_path / "out").method == "ties"
    again = init(tmp_path, "r.yml", *options)
    assert again.returncode == 2 and "exists" in again.stderr and (tmp_path / "r.yml").read_text() == text


def test_a_pipeline_that_runs(chat_models: Path, questions: Path, tmp_path: Path) -> None:
    done = init(
        tmp_path, "p.yml", "--base", chat_models / "base", "--model", chat_models / "a", "--method", "task_arithmetic",
        "--gguf", "q8_0", "--questions", questions,
    )  # fmt: skip
    assert done.returncode == 0 and "weightsmith run p.yml p" in done.stdout, done.stderr
    content = yaml.safe_load((tmp_path / "p.yml").read_text())
    assert content["export"] == ["q8_0"] and content["evaluate"]["models"]["merged"] == "$merged"
    assert list(content["evaluate"]["models"]) == ["base", "a", "merged", "merged Q8_0"]
    assert ws.run(tmp_path / "p.yml", tmp_path / "out").report


def test_a_fine_tune_that_is_called_as_the_result() -> None:
    models = yaml.safe_load(draft_pipeline("a: b", [], ["q.jsonl"], "x/base", ["y/base", "z/merged"]))["evaluate"][
        "models"
    ]
    assert list(models.values()) == ["x/base", "y/base", "z/merged", "$merged"] and len(models) == 4


def test_an_adapter_goes_onto_the_base(tmp_path: Path) -> None:
    write_model(tmp_path / "base", 0)
    write_adapter(tmp_path / "tuned")
    done = init(tmp_path, "r.yml", "--base", "base", "--model", "tuned", "--method", "task_arithmetic")
    assert done.returncode == 0 and "tuned: an adapter; it goes onto the base" in done.stderr, done.stderr
    assert yaml.safe_load((tmp_path / "r.yml").read_text())["models"][0]["model"] == "base+tuned"


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_has_a_first_recipe(name: str) -> None:
    method = METHODS[name]
    count = max(2, method.inputs[0] - method.needs_base)
    names = [f"a b: #{number}" for number in range(min(count, (method.inputs[1] or 9) - method.needs_base))]
    text = draft_recipe(method, names, "the: base" if method.needs_base else None)
    recipe = ws.Recipe.from_dict(yaml.safe_load(text))
    assert [entry.model for entry in recipe.schema.models or []] == names and recipe.method.name == name
    pipeline = yaml.safe_load(draft_pipeline(text, ["q4_k_m"], ["q.jsonl"], "b", names))
    assert pipeline["merge"] == yaml.safe_load(text) and pipeline["evaluate"]["questions"] == ["q.jsonl"]


@pytest.mark.parametrize(
    "options,message",
    [
        (["--method", "tis"], "did you mean 'ties'"),
        (["--method", "slerp"], "slerp merges"),
        (["--method", "ties", "--model", "none"], "no such folder or file"),
    ],
)
def test_what_does_not_fit_is_said_first(options: list[str], message: str, models: Path, tmp_path: Path) -> None:
    given = ["--base", models / "base", *(part for n in "abc" for part in ("--model", models / n))]
    done = init(tmp_path, "r.yml", *given, *options)
    assert done.returncode == 2 and message in done.stderr and len(stderr_lines(done)) == 1
    assert not (tmp_path / "r.yml").exists()


def test_nobody_to_ask(tmp_path: Path) -> None:
    done = weightsmith_process("init", tmp_path / "r.yml", stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and "nobody to ask" in done.stderr


def test_three_questions_in_a_terminal(models: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "weightsmith", "init", "r.yml"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    os.close(theirs)
    os.write(ours, f"{models / 'base'}\n{models / 'a'} {models / 'b'}\n\n".encode())
    shown, _ = process.communicate(timeout=120)
    os.close(ours)
    assert process.returncode == 0, shown
    assert "The base model" in shown and "The merge method [ties]" in shown
    assert yaml.safe_load((tmp_path / "r.yml").read_text())["merge_method"] == "ties"
