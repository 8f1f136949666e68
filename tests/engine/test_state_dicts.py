"""Files of weights alone, as mergekit-pytorch takes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import weightsmith as ws
from weightsmith.errors import CheckpointError, PlanError, RecipeError


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """`base`, `a` and `b`: convolutions, a linear layer, a batch counter; one of them saved by torch."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "features.0.weight": (8, 3, 3, 3),
        "features.3.weight": (8, 8, 3, 3),
        "head.weight": (5, 32),
        "head.bias": (5,),
    }
    paths = {}
    for name in ("base", "a", "b"):
        weights = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
        weights["features.1.num_batches_tracked"] = torch.tensor(7)
        paths[name] = tmp_path / (f"{name}.pt" if name == "b" else f"{name}.safetensors")
        torch.save(weights, paths[name]) if name == "b" else save_file(weights, paths[name])
    return paths


def recipe_of(files: dict[str, Path], method: str = "ties") -> dict:
    parameters = {"weight": 0.5, "density": 0.7} if method == "ties" else {}
    models = [{"model": str(files[name]), "parameters": parameters} for name in "ab"]
    return {"merge_method": method, "base_model": str(files["base"]), "models": models, "dtype": "float32"}


def test_they_are_merged_like_mergekit_pytorch(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yml"
    path.write_text(yaml.safe_dump(recipe_of(files)))
    summary = ws.merge(path, tmp_path / "ours")
    assert summary.tensors == 5
    assert sorted(p.name for p in (tmp_path / "ours").iterdir()) == [
        "README.md",
        "checksums.json",
        "merge_recipe.yml",
        "model.safetensors",
        "provenance.json",
    ]
    command = [str(Path(sys.executable).parent / "mergekit-pytorch"), str(path), str(tmp_path / "theirs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = {k: v for file in (tmp_path / "theirs").glob("*.safetensors") for k, v in load_file(file).items()}
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-6)
    assert ws.verify(tmp_path / "ours")
    assert ws.merge(path, tmp_path / "ours").done_already


def test_matrices_of_a_state_dict(files: dict[str, Path]) -> None:
    tensors = ws.merge(recipe_of(files, "tsv_m"))
    assert tensors["features.0.weight"].shape == (8, 3, 3, 3)
    assert torch.isfinite(tensors["head.weight"]).all()


def test_a_state_dict_is_no_model_elsewhere(files: dict[str, Path], models: Path) -> None:
    with pytest.raises(CheckpointError, match="a file of weights without a configuration"):
        ws.open_model(str(files["a"]))
    mixed = recipe_of(files) | {"base_model": str(models / "base")}
    with pytest.raises(RecipeError, match="files of weights alone have no tokenizer"):
        ws.merge(recipe_of(files) | {"chat_template": "chatml"})
    with pytest.raises(PlanError, match="one is a file of weights without a configuration, the other is a model"):
        ws.merge(mixed)
