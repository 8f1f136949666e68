"""`--json` on the commands that report: one value on standard output that any program reads, and nothing else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import weightsmith_process
from weightsmith.commands.terminal.json_output import as_json


def found(*arguments: object, code: int = 0) -> Any:
    done = weightsmith_process(*arguments, "--json")
    assert done.returncode == code, done.stderr

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(done.stdout, parse_constant=refuse)


@pytest.fixture
def recipe(chat_models: Path, tmp_path: Path) -> Path:
    models = [{"model": str(chat_models / name), "parameters": {"weight": 0.5}} for name in "ab"]
    content = {"merge_method": "ties", "base_model": str(chat_models / "base"), "models": models, "dtype": "float32"}
    (tmp_path / "ties.yml").write_text(json.dumps(content))
    return tmp_path / "ties.yml"


def test_a_merge_its_plan_and_its_check(recipe: Path, tmp_path: Path) -> None:
    planned = found("merge", recipe, tmp_path / "out", "--dry-run")
    assert planned["method"] == "ties" and planned["models"] == 3 and planned["estimate"]["disk_bytes"] > 0
    assert found("recipe", "check", recipe)["tensors"] == planned["tensors"]
    summary = found("merge", recipe, tmp_path / "out")
    assert summary["tensors"] == planned["tensors"] and summary["written_bytes"] == planned["written_bytes"]
    assert summary["out"] == str(tmp_path / "out") and summary["not_finite"] == []
    assert found("verify", tmp_path / "out")["tensors"] == summary["tensors"]
    weights = tmp_path / "out" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert found("verify", tmp_path / "out", code=2)["damaged"]
    refused = weightsmith_process("merge", recipe, tmp_path / "two", "--gguf", "f16", "--json")
    assert refused.returncode == 2 and "--no-intermediate" in refused.stderr


def test_models(chat_models: Path, tmp_path: Path) -> None:
    inspection = found("inspect", chat_models / "base", chat_models / "a")
    assert inspection["mergeable"] and len(inspection["models"]) == 2
    unified = found("unify", chat_models / "a", tmp_path / "unified")
    assert unified["conversion"] is None and unified["tensors"] > 0


def test_methods() -> None:
    every = found("methods")
    one = found("methods", "ties")
    assert one in every and one["paper"] == "https://arxiv.org/abs/2306.01708"
    density = next(parameter for parameter in one["parameters"] if parameter["name"] == "density")
    assert density["default"] == 1.0 and not density["required"]


def test_scores(chat_models: Path, questions: Path, tmp_path: Path) -> None:
    models = [f"{name}={chat_models / name}" for name in ("base", "a")]
    result = found("evaluate", *models, "--questions", questions, "-o", tmp_path / "out", "--precision", "float32")
    assert set(result["scores"]) == {"base", "a"} and set(result["scores"]["a"]) == {"capitals"}
    (comparison, *_) = result["comparisons"]
    assert (comparison["label"], comparison["other"]) == ("a", "base") and "no difference" in comparison["verdict"]


def test_a_run(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "pipeline.yml").write_text(json.dumps({"merge": str(recipe), "report": {}}))
    summary = found("run", tmp_path / "pipeline.yml", tmp_path / "run")
    assert next(stage["name"] for stage in summary["stages"]) == "merge" and summary["report"].endswith("report.html")


def test_which_layers_carry_a_skill(recipe: Path, questions: Path, tmp_path: Path) -> None:
    command = ("ablate", recipe, tmp_path / "out", "--questions", questions, "--blocks", 1, "--precision", "float32")
    result = found(*command)
    assert [one["name"] for one in result["objectives"]] == ["capitals"]
    assert len(result["without"]) == 2 and all(len(values) == len(result["blocks"]) for values in result["p"].values())


def test_a_search(recipe: Path, questions: Path, tmp_path: Path) -> None:
    content = json.loads(recipe.read_text())
    content["models"][0]["parameters"]["weight"] = {"uniform": [0.1, 0.9]}
    search = {"recipe": content, "objective": [{"questions": str(questions)}], "trials": 2}
    (tmp_path / "search.yml").write_text(json.dumps(search))
    result = found("search", tmp_path / "search.yml", tmp_path / "found", "--precision", "float32")
    assert "best" in result and result["candidates"]


def test_what_would_be_pushed(recipe: Path, tmp_path: Path) -> None:
    found("merge", recipe, tmp_path / "out")
    result = found("push", tmp_path / "out", "me/merge", "--dry-run")
    assert result["url"] is None and "model.safetensors" in result["files"]["files"]


def test_types_of_files() -> None:
    assert {"q4_k_m", "f16"} <= {row["type"] for row in found("export", "--list-types")}


def test_what_json_lacks() -> None:
    assert as_json({"a": math.nan, "b": (Path("x"), {2, 1}), 3: -math.inf}) == {
        "a": None,
        "b": ["x", [1, 2]],
        "3": None,
    }
    with pytest.raises(TypeError):
        as_json(object())
