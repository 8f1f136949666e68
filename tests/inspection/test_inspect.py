"""What `weightsmith inspect` says, and its exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import weightsmith
from tests.conftest import stderr_lines, weightsmith_process
from weightsmith.demo.run_demo import PACKAGE


def test_models_that_fit(models: Path) -> None:
    done = weightsmith_process("inspect", models / "base", models / "a")
    assert done.returncode == 0, done.stderr
    for part in ("LlamaForCausalLM", "naming", "transformers", "F32", "128", "2 models can be merged"):
        assert part in done.stdout
    assert "change" not in done.stdout


def test_gguf_and_adapter(smollm: Path) -> None:
    inspection = weightsmith.inspect([str(smollm), f"{smollm}+{PACKAGE / 'adapters' / 'dates'}"])
    assert inspection.mergeable
    base, tuned = inspection.models
    assert (base.parameters, base.layers, base.vocabulary, base.tied) == (134_515_008, 30, 49152, True)
    assert base.dtypes[0] == "Q4_1" and base.naming == "llama/gguf"
    assert (base.lora_rank, tuned.lora_rank) == (None, 4)


def test_json_and_recipe(models: Path, tmp_path: Path) -> None:
    entries = [{"model": str(models / n), "parameters": {"weight": 1}} for n in "ab"]
    content = {"merge_method": "task_arithmetic", "base_model": str(models / "base"), "models": entries}
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(content))
    done = weightsmith_process("inspect", "--recipe", tmp_path / "recipe.yml", "--json")
    output = json.loads(done.stdout)
    assert done.returncode == 0 and output["mergeable"]
    assert [Path(m["reference"]).name for m in output["models"]] == ["base", "a", "b"]


def changed(models: Path, folder: Path, change, **config) -> Path:
    shutil.copytree(models / "a", folder / "changed")
    path = folder / "changed" / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file({k: v.contiguous() for k, v in weights.items()}, path, {"format": "pt"})
    content = json.loads((folder / "changed" / "config.json").read_text())
    (folder / "changed" / "config.json").write_text(json.dumps(content | config))
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

    messages = blocked(models, changed(models, tmp_path, cut, vocab_size=100))
    assert "the vocabularies differ: 128 rows" in messages and "100 in" in messages
    assert "no tokenizer.json" in messages


def test_other_shapes(models: Path, tmp_path: Path) -> None:
    def cut(weights) -> None:
        for n in range(3):
            weights[f"model.layers.{n}.mlp.up_proj.weight"] = weights[f"model.layers.{n}.mlp.up_proj.weight"][:80]
            weights[f"model.layers.{n}.mlp.gate_proj.weight"] = weights[f"model.layers.{n}.mlp.gate_proj.weight"][:80]
            weights[f"model.layers.{n}.mlp.down_proj.weight"] = weights[f"model.layers.{n}.mlp.down_proj.weight"][
                :, :80
            ]

    messages = blocked(models, changed(models, tmp_path, cut, intermediate_size=80))
    assert (
        "9 tensors have different shapes, such as model.layers.0.mlp.down_proj.weight: [64, 96] and [64, 80]"
        in messages
    )


def test_a_tensor_is_missing(models: Path, tmp_path: Path) -> None:
    messages = blocked(models, changed(models, tmp_path, lambda weights: weights.pop("model.norm.weight")))
    assert "1 tensor is only in" in messages and "model.norm.weight" in messages


def test_another_family(models: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=128, n_embd=64, n_layer=3, n_head=4, n_positions=64)).save_pretrained(
        tmp_path
    )
    messages = blocked(models, tmp_path)
    assert "it is a gpt2 model" in messages and "choose models of one family" in messages


def test_another_name_for_the_same_tensors(models: Path, tmp_path: Path) -> None:
    other = changed(models, tmp_path, lambda weights: None, model_type="mistral")
    done = weightsmith_process("inspect", models / "base", other)
    assert done.returncode == 0 and "the result is a llama model" in done.stdout


def test_movement(models: Path, tmp_path: Path) -> None:
    """Against the same numbers computed plainly; the terminal shows a row for each layer."""
    inspection = weightsmith.inspect([str(models / n) for n in ("base", "a", "b")], stats=True, threads=2)
    one = weightsmith.inspect([str(models / n) for n in ("base", "a", "b")], stats=True, threads=1)
    assert inspection.movement == one.movement and inspection.movement is not None
    base, a, b = (load_file(models / n / "model.safetensors") for n in ("base", "a", "b"))
    deltas = [torch.cat([(w[k] - base[k]).flatten() for k in base]).double() for w in (a, b)]
    length = torch.cat([v.flatten() for v in base.values()]).double().norm()
    assert inspection.movement.whole == pytest.approx([float(d.norm() / length) for d in deltas], rel=1e-5)
    (pair,) = inspection.movement.pairs
    assert pair.cosine == pytest.approx(float(deltas[0] @ deltas[1] / (deltas[0].norm() * deltas[1].norm())), abs=1e-5)
    both = (deltas[0] != 0) & (deltas[1] != 0)
    assert pair.sign_agreement == pytest.approx(float(((deltas[0] * deltas[1])[both] > 0).double().mean()), abs=1e-4)
    assert "nearly independent" in pair.verdict
    name = "model.layers.1.mlp.up_proj.weight"
    (cell,) = [c for c in inspection.movement.cells if (c.layer, c.module) == (1, "mlp.up_proj")]
    assert cell.moved[0] == pytest.approx(float((a[name] - base[name]).norm() / base[name].norm()), rel=1e-4)
    done = weightsmith_process("inspect", "--stats", *(models / n for n in ("base", "a", "b")))
    assert done.returncode == 0, done.stderr
    assert "cosine of task vectors" in done.stdout and "by layer and module" in done.stdout
    rows = [line.split()[0] for line in done.stdout.splitlines() if "%" in line and line.split()[0].isdigit()]
    assert rows == ["0", "1", "2"] * 2


def test_fine_tunes_that_work_against_each_other(models: Path, tmp_path: Path) -> None:
    base = load_file(models / "base" / "model.safetensors")

    def mirrored(weights) -> None:
        weights.update({k: 2 * base[k] - v for k, v in weights.items()})

    other = changed(models, tmp_path, mirrored)
    inspection = weightsmith.inspect([str(models / "base"), str(models / "a"), str(other)], stats=True)
    assert inspection.movement and inspection.movement.pairs[0].cosine == pytest.approx(-1.0, abs=1e-3)
    assert "work against each other" in inspection.movement.pairs[0].verdict


def test_tied_and_untied(models: Path, tmp_path: Path) -> None:
    tied = changed(models, tmp_path, lambda weights: weights.pop("lm_head.weight"), tie_word_embeddings=True)
    done = weightsmith_process("inspect", models / "base", tied)
    assert done.returncode == 0 and "its embedding is used as the output matrix" in done.stdout
    assert "128 rows, output tied to them" in done.stdout
    done = weightsmith_process("inspect", tied, models / "base")
    assert done.returncode == 0 and "it has an output matrix of its own" in done.stdout


def test_code_is_reported(models: Path, tmp_path: Path) -> None:
    other = changed(models, tmp_path, lambda weights: None, auto_map={"AutoModel": "x.Y"})
    done = weightsmith_process("inspect", models / "base", other)
    assert done.returncode == 0 and "auto_map), which is never run" in done.stdout


def test_a_broken_model(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "a", tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"short")
    done = weightsmith_process("inspect", models / "base", tmp_path / "broken")
    assert done.returncode == 2 and len(stderr_lines(done)) == 1
    assert weightsmith_process("inspect").returncode == 2
