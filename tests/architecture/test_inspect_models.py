"""What `weightsmith inspect` says, and its exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml
from safetensors.torch import load_file, save_file

import weightsmith
from tests.conftest import weightsmith_process
from weightsmith.demo.demo_run import PACKAGE


def test_models_that_fit(models: Path) -> None:
    done = weightsmith_process("inspect", models / "base", models / "a")
    assert done.returncode == 0, done.stderr
    for part in ("LlamaForCausalLM", "naming", "transformers", "F32", "128", "2 models can be merged"):
        assert part in done.stdout
    assert "change" not in done.stdout


def test_gguf_and_adapter(smollm: Path) -> None:
    found = weightsmith.inspect([str(smollm), f"{smollm}+{PACKAGE / 'adapters' / 'dates'}"])
    assert found.mergeable
    base, tuned = found.models
    assert (base.parameters, base.layers, base.vocabulary, base.tied) == (134_515_008, 30, 49152, True)
    assert base.dtypes[0] == "Q4_1" and base.naming == "llama/gguf"
    assert (base.lora_rank, tuned.lora_rank) == (None, 4)


def test_json_and_recipe(models: Path, tmp_path: Path) -> None:
    entries = [{"model": str(models / n), "parameters": {"weight": 1}} for n in "ab"]
    content = {"merge_method": "task_arithmetic", "base_model": str(models / "base"), "models": entries}
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(content))
    done = weightsmith_process("inspect", "--recipe", tmp_path / "recipe.yml", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 0 and told["mergeable"]
    assert [Path(m["reference"]).name for m in told["models"]] == ["base", "a", "b"]


def changed(models: Path, folder: Path, change, **config) -> Path:
    shutil.copytree(models / "a", folder / "changed")
    path = folder / "changed" / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file({k: v.contiguous() for k, v in weights.items()}, path, {"format": "pt"})
    told = json.loads((folder / "changed" / "config.json").read_text())
    (folder / "changed" / "config.json").write_text(json.dumps(told | config))
    return folder / "changed"


def blocked(models: Path, other: Path) -> str:
    done = weightsmith_process("inspect", models / "base", other)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "can be merged" not in done.stdout
    return done.stdout


def test_another_vocabulary(models: Path, tmp_path: Path) -> None:
    def cut(weights) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            weights[name] = weights[name][:100]

    said = blocked(models, changed(models, tmp_path, cut, vocab_size=100))
    assert "the vocabularies differ: 128 rows" in said and "100 in" in said
    assert "lm_head.weight, model.embed_tokens.weight" in said


def test_other_shapes(models: Path, tmp_path: Path) -> None:
    def cut(weights) -> None:
        for n in range(3):
            weights[f"model.layers.{n}.mlp.up_proj.weight"] = weights[f"model.layers.{n}.mlp.up_proj.weight"][:80]
            weights[f"model.layers.{n}.mlp.gate_proj.weight"] = weights[f"model.layers.{n}.mlp.gate_proj.weight"][:80]
            weights[f"model.layers.{n}.mlp.down_proj.weight"] = weights[f"model.layers.{n}.mlp.down_proj.weight"][
                :, :80
            ]

    said = blocked(models, changed(models, tmp_path, cut, intermediate_size=80))
    assert "9 tensors have other shapes, such as model.layers.0.mlp.down_proj.weight: [64, 96] and [64, 80]" in said


def test_a_tensor_is_missing(models: Path, tmp_path: Path) -> None:
    said = blocked(models, changed(models, tmp_path, lambda weights: weights.pop("model.norm.weight")))
    assert "1 tensors are only in" in said and "model.norm.weight" in said


def test_another_family(models: Path, tmp_path: Path) -> None:
    assert "it is a mistral model" in blocked(
        models, changed(models, tmp_path, lambda weights: None, model_type="mistral")
    )


def test_code_is_reported(models: Path, tmp_path: Path) -> None:
    other = changed(models, tmp_path, lambda weights: None, auto_map={"AutoModel": "x.Y"})
    done = weightsmith_process("inspect", models / "base", other)
    assert done.returncode == 0 and "auto_map), which is never run" in done.stdout


def test_a_broken_model(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "a", tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"short")
    done = weightsmith_process("inspect", models / "base", tmp_path / "broken")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert weightsmith_process("inspect").returncode == 2
