"""A multimodal model and language models in one recipe."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file

import weightsmith
from tests.conftest import weightsmith_process


def multimodal(models: Path, folder: Path) -> Path:
    """Model `a` as the language model of a tiny multimodal one, written by hand."""
    folder.mkdir()
    weights = load_file(models / "a" / "model.safetensors")
    wrapped = {
        ("model.language_model." + k.removeprefix("model.") if k.startswith("model.") else k): v
        for k, v in weights.items()
    }
    vision = {f"model.vision_tower.layers.{n}.weight": torch.randn(4, 4) for n in range(2)}
    save_file(wrapped | vision, folder / "model.safetensors", {"format": "pt"})
    inner = json.loads((models / "a" / "config.json").read_text())
    config = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "text_config": inner}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_language_model_alone_is_merged(models: Path, tmp_path: Path) -> None:
    seeing = multimodal(models, tmp_path / "seeing")
    for name, a in (("mixed", seeing), ("plain", models / "a")):
        entries = [{"model": str(m), "parameters": {"weight": 0.5, "density": 0.5}} for m in (a, models / "b")]
        content = {"merge_method": "ties", "base_model": str(models / "base"), "models": entries, "dtype": "float32"}
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(content))
        done = weightsmith_process("merge", tmp_path / f"{name}.yml", tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert ("its language model alone; 2 tensors of other parts left out" in done.stderr) == (name == "mixed")
    mixed, plain = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("mixed", "plain"))
    assert mixed == plain
    done = weightsmith_process("inspect", models / "base", seeing)
    assert done.returncode == 0 and "2 tensors of other parts left out" in done.stdout


def test_two_multimodal_models_keep_all_parts(models: Path, tmp_path: Path) -> None:
    folders = [multimodal(models, tmp_path / n) for n in ("one", "two")]
    content = {"merge_method": "linear", "models": [{"model": str(f), "parameters": {"weight": 1.0}} for f in folders]}
    (tmp_path / "r.yml").write_text(yaml.safe_dump(content))
    weightsmith.merge(tmp_path / "r.yml", tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert merged.keys() == load_file(folders[0] / "model.safetensors").keys()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llava"
