"""A merge written as a LoRA adapter, loaded by peft, against the merge written as full weights."""

from __future__ import annotations

import json
import time
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import weightsmith as ws
from tests.conftest import weightsmith_process
from tests.methods.test_composed import lora_models, lora_recipe  # noqa: F401  # a fixture
from weightsmith.errors import MergeError, OutputError, PlanError
from weightsmith.methods.matrices.linear_algebra import top_svd

TOKENS = torch.arange(2, 30)[None]


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


def by_peft(base: Path, adapter: Path) -> torch.Tensor:
    loaded = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(adapter)
    )
    return logits(loaded)


@pytest.mark.parametrize("method", ["core_space", "task_arithmetic"])
def test_an_adapter_of_the_sum_of_the_ranks_is_the_merge(
    method: str,
    lora_models: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    recipe = lora_recipe(lora_models, method, **({"weight": 0.5} if method == "task_arithmetic" else {}))
    ws.merge(recipe, tmp_path / "full")
    summary = ws.merge(recipe, tmp_path / "adapter", lora_rank=9)
    assert summary.lora_loss is not None and summary.lora_loss.share < 1e-3
    full = AutoModelForCausalLM.from_pretrained(tmp_path / "full", dtype=torch.float32)
    torch.testing.assert_close(by_peft(lora_models / "base", tmp_path / "adapter"), logits(full), rtol=1e-3, atol=1e-4)
    again = ws.merge(
        {
            "merge_method": "passthrough",
            "models": [{"model": f"{lora_models / 'base'}+{tmp_path / 'adapter'}"}],
            "dtype": "float32",
        }
    )
    for name, weight in load_file(tmp_path / "full" / "model.safetensors").items():
        torch.testing.assert_close(again[name], weight, rtol=1e-3, atol=1e-5)
    assert ws.verify(tmp_path / "adapter").sound
    assert ws.merge(recipe, tmp_path / "adapter", lora_rank=9).done_already


def test_a_smaller_rank_is_the_nearest_adapter_and_says_what_is_lost(
    lora_models: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    recipe = lora_recipe(lora_models, "task_arithmetic", weight=0.5)
    path = tmp_path / "recipe.yml"
    path.write_text(json.dumps(recipe))
    planned = weightsmith_process("merge", path, tmp_path / "adapter", "--lora-rank", 3, "--dry-run")
    assert planned.returncode == 0 and "as a LoRA adapter" in planned.stdout, planned.stderr
    done = weightsmith_process("merge", path, tmp_path / "adapter", "--lora-rank", 3)
    assert done.returncode == 0, done.stderr
    base, tensors = load_file(lora_models / "base" / "model.safetensors"), ws.merge(recipe)
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    lost, whole = 0.0, 0.0
    for name in base:
        if name.endswith("norm.weight") or "embed" in name or "lm_head" in name:
            continue
        change = (tensors[name] - base[name]).double()
        module = f"base_model.model.{name.removesuffix('.weight')}"
        held = adapter[f"{module}.lora_B.weight"].double() @ adapter[f"{module}.lora_A.weight"].double()
        values = torch.linalg.svdvals(change)
        nearest = float(values[3:].square().sum())
        assert float((change - held).square().sum()) == pytest.approx(nearest, rel=1e-3, abs=1e-9)
        lost, whole = lost + nearest, whole + float(values.square().sum())
    assert f"the rank leaves out {(lost / whole) ** 0.5:.2%}" in done.stdout


def test_conv1d_of_gpt2(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=64, n_positions=64)
    model = GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "attn.c_" in name and name.endswith(".weight"):
                weight += 0.3 * torch.randn(weight.shape[0], 2) @ torch.randn(2, weight.shape[1])
    model.save_pretrained(tmp_path / "tuned")
    entry = {"model": str(tmp_path / "tuned"), "parameters": {"weight": 1.0}}
    recipe = {"merge_method": "task_arithmetic", "base_model": str(tmp_path / "base"), "models": [entry]}
    ws.merge(recipe, tmp_path / "adapter", lora_rank=2)
    torch.testing.assert_close(
        by_peft(tmp_path / "base", tmp_path / "adapter"), logits(model.eval()), rtol=1e-3, atol=1e-4
    )


def test_what_an_adapter_cannot_hold_is_refused(models: Path, tmp_path: Path) -> None:
    entries = [{"model": str(models / name), "parameters": {"weight": 0.5}} for name in "ab"]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(models / "base"), "models": entries}
    with pytest.raises(MergeError, match=r"the merge changes it, by .* a LoRA adapter holds linear layers alone"):
        ws.merge(recipe, tmp_path / "out", lora_rank=4)
    assert not (tmp_path / "out").exists()
    of_matrices = recipe | {"merge_method": "tsv_m", "parameters": {"embeddings": "base", "vectors": "base"}}
    assert ws.merge(of_matrices, tmp_path / "out", lora_rank=4).lora_loss is not None
    without = {key: value for key, value in recipe.items() if key != "base_model"} | {"merge_method": "linear"}
    with pytest.raises(PlanError, match="names no base_model"):
        ws.merge(without, tmp_path / "other", lora_rank=4)
    stacked = {
        "merge_method": "passthrough",
        "base_model": str(models / "base"),
        "slices": [{"sources": [{"model": str(models / "a"), "layer_range": [0, 3]}]} for _ in range(2)],
    }
    with pytest.raises(PlanError, match="is not in the base model"):
        ws.merge(stacked, tmp_path / "other", lora_rank=4)
    with pytest.raises(OutputError, match="an adapter of rank 1 or more"):
        ws.merge(recipe, lora_rank=4)
    done = weightsmith_process("merge", "recipe.yml", "out", "--lora-rank", 4, "--gguf", "f16")
    assert done.returncode == 2 and "goes with none of --gguf" in done.stderr


def test_the_largest_singular_values_of_a_large_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(700, 400, generator=generator))
    v, _ = torch.linalg.qr(torch.randn(400, 400, generator=generator))
    values = 0.9 ** torch.arange(400.0)
    matrix = (u * values) @ v.T
    for one in (matrix, matrix.T.contiguous()):
        left, found, right = top_svd(one, 8)
        torch.testing.assert_close(found, values[:8], rtol=1e-4, atol=0)
        lost = float((one - (left * found) @ right.T).norm() / values[8:].norm())
        assert lost < 1.01
        assert torch.equal(top_svd(one, 8)[1], found)


@pytest.mark.parametrize("architecture", ["MixtralForCausalLM", "Qwen3MoeForCausalLM"])
def test_experts(architecture: str, tmp_path: Path) -> None:
    """Each expert's matrices get an adapter of their own, in the form that peft has for fused experts."""
    import transformers

    architecture_class = getattr(transformers, architecture)
    shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_experts_per_tok": 2}
    shape |= (
        {"num_local_experts": 4}
        if architecture.startswith("Mixtral")
        else {"num_experts": 4, "moe_intermediate_size": 16}
    )
    torch.manual_seed(0)
    model = architecture_class(architecture_class.config_class(**shape)).float()
    model.save_pretrained(tmp_path / "base")
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "proj" in name:
            parameter.data += 0.05 * torch.randn(parameter.shape)
    model.save_pretrained(tmp_path / "tuned")
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(tmp_path / "base"),
        "models": [{"model": str(tmp_path / "tuned"), "parameters": {"weight": 1.0}}],
        "dtype": "float32",
    }
    ws.merge(recipe, tmp_path / "adapter", lora_rank=32)
    torch.testing.assert_close(by_peft(tmp_path / "base", tmp_path / "adapter"), logits(model), rtol=1e-3, atol=1e-4)


def test_what_is_lost_is_known_after_a_resume(
    lora_models: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from weightsmith.engine.adapter import make_adapter

    recipe = lora_recipe(lora_models, "task_arithmetic", weight=0.5)
    quiet = ws.merge(recipe, tmp_path / "quiet", lora_rank=3)
    factors, made = make_adapter._factors, list[int]()

    def failing(change, rank):
        made.append(rank)
        if len(made) == 12:
            time.sleep(0.5)  # the journal writes what was finished before
            raise KeyboardInterrupt
        return factors(change, rank)

    monkeypatch.setattr(make_adapter, "_factors", failing)
    with pytest.raises(KeyboardInterrupt):
        ws.merge(recipe, tmp_path / "out", lora_rank=3, threads=1)
    monkeypatch.setattr(make_adapter, "_factors", factors)
    resumed = ws.merge(recipe, tmp_path / "out", lora_rank=3)
    assert 0 < resumed.resumed < resumed.tensors
    assert resumed.lora_loss is not None and quiet.lora_loss is not None
    assert resumed.lora_loss.worst == quiet.lora_loss.worst
    assert resumed.lora_loss.share == pytest.approx(quiet.lora_loss.share)
