"""`weightsmith merge --gguf`: with the merged folder in between and without, to the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import weightsmith_process


@pytest.fixture
def recipe(chat_models: Path, tmp_path: Path) -> Path:
    models = [{"model": str(chat_models / n), "parameters": {"weight": 0.5, "density": 0.6}} for n in "ab"]
    content = {
        "merge_method": "dare_ties",
        "base_model": str(chat_models / "base"),
        "models": models,
        "parameters": {"lines_alpha": "auto"},  # the whole model is read first
        "dtype": "float16",
    }
    path = tmp_path / "recipe.yml"
    path.write_text(json.dumps(content))
    return path


def test_the_same_bytes_with_and_without_a_folder(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    options = ("--gguf", "q8_0", "--gguf", "f16", "--seed", "7")
    done = weightsmith_process("merge", recipe, tmp_path / "one" / "m", *options)
    assert done.returncode == 0, done.stderr
    direct = weightsmith_process("merge", recipe, tmp_path / "two" / "m", *options, "--no-intermediate")
    assert direct.returncode == 0, direct.stderr
    assert {path.name for path in (tmp_path / "two" / "m").iterdir()} == {"gguf"}
    assert (tmp_path / "one" / "m" / "model.safetensors").exists()
    for kind in ("q8_0", "f16"):
        one, two = ((tmp_path / way / "m" / "gguf" / f"m-{kind}.gguf").read_bytes() for way in ("one", "two"))
        assert one == two


def test_what_does_not_go_together(recipe: Path, tmp_path: Path) -> None:
    for options in (("--no-intermediate",), ("--no-intermediate", "--gguf", "f16", "--dry-run")):
        result = weightsmith_process("merge", recipe, tmp_path / "out", *options)
        assert result.returncode == 2 and "--no-intermediate" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_type_that_is_not_known_is_found_before_the_merge(recipe: Path, tmp_path: Path) -> None:
    result = weightsmith_process("merge", recipe, tmp_path / "out", "--gguf", "q4_k_n")
    assert result.returncode == 2 and "unknown GGUF type 'q4_k_n'; did you mean 'q4_k_s'" in result.stderr
    assert not (tmp_path / "out").exists()
