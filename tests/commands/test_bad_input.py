"""Bad input: one message, exit 2, nothing left behind."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import stderr_lines, weightsmith_process

TIES = """\
merge_method: ties
base_model: BASE
models:
  - model: MODEL_A
    parameters:
      weight: 1.0
      density: 0.5
"""
BAD = {
    "not YAML": ("models: [", "not valid YAML"),
    "missing key": ("base_model: BASE\nmodels:\n  - model: BASE\n", "'merge_method' is missing"),
    "unknown method": (TIES.replace("ties", "tiez"), "did you mean 'ties'"),
    "unknown parameter": (
        TIES.replace("density", "densty"),
        "recipe.yml:7: unknown parameter 'densty' of ties; did you mean 'density'",
    ),
    "density zero": (TIES.replace("0.5", "0"), "recipe.yml:7: density is 0"),
    "density high": (TIES.replace("0.5", "1.5"), "must be above 0 and at most 1"),
    "no such model": (TIES.replace("MODEL_A", "/nowhere"), "recipe.yml:4: /nowhere: no such folder"),
    "no weight": (TIES.replace("weight: 1.0", "density: 1.0").replace("      density: 0.5\n", ""), "recipe.yml:4"),
}


def write(models: Path, folder: Path, text: str) -> Path:
    path = folder / "recipe.yml"
    path.write_text(text.replace("BASE", str(models / "base")).replace("MODEL_A", str(models / "a")))
    return path


def assert_refused(result: subprocess.CompletedProcess[str], message: str, folder: Path, *more: str) -> None:
    assert result.returncode == 2, result.stderr
    for part in (message, *more):
        assert part in result.stderr
    assert "Traceback" not in result.stderr
    assert len(stderr_lines(result)) == 1
    assert not [p for p in folder.iterdir() if "out" in p.name]


@pytest.mark.parametrize("name", BAD)
def test_bad_recipe(name: str, models: Path, tmp_path: Path) -> None:
    text, message = BAD[name]
    assert_refused(weightsmith_process("merge", write(models, tmp_path, text), tmp_path / "out"), message, tmp_path)


def test_safetensors_cut_short(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "a", tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    recipe = write(models, tmp_path, TIES.replace("MODEL_A", str(tmp_path / "cut")))
    assert_refused(weightsmith_process("merge", recipe, tmp_path / "out"), "recipe.yml:4: ", tmp_path, "cut short")


def test_shapes_differ(models: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(models / "base")
    config.intermediate_size = 80
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    recipe = write(models, tmp_path, TIES.replace("MODEL_A", str(tmp_path / "other")))
    assert_refused(
        weightsmith_process("merge", recipe, tmp_path / "out"),
        "recipe.yml:4: tensor",
        tmp_path,
        "only models of one shape",
    )


def test_output_not_empty(models: Path, tmp_path: Path) -> None:
    recipe = write(models, tmp_path, TIES)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("keep")
    assert_refused(weightsmith_process("merge", recipe, tmp_path / "used"), "not empty", tmp_path)
    assert (tmp_path / "used" / "mine.txt").read_text() == "keep"
    forced = weightsmith_process("merge", recipe, tmp_path / "used", "--force")
    assert_refused(forced, "holds something else (mine.txt)", tmp_path)
    assert (tmp_path / "used" / "mine.txt").read_text() == "keep"


def test_an_output_of_ours_is_replaced_with_force(models: Path, tmp_path: Path) -> None:
    recipe = write(models, tmp_path, TIES)
    for more in ((), ("--force",)):
        assert weightsmith_process("merge", recipe, tmp_path / "out", *more).returncode == 0
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_an_input_is_never_replaced(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "a", tmp_path / "mine")
    recipe = write(models, tmp_path, TIES.replace("MODEL_A", str(tmp_path / "mine")))
    before = (tmp_path / "mine" / "model.safetensors").read_bytes()
    assert_refused(
        weightsmith_process("merge", recipe, tmp_path / "mine", "--force"), "inputs are never overwritten", tmp_path
    )
    assert (tmp_path / "mine" / "model.safetensors").read_bytes() == before
