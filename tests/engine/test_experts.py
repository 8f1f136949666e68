"""Mixtures of experts: one file's matrix for each expert and another's tensor of all of them are one model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import weightsmith as ws
from tests.conftest import weightsmith_process

EXPERTS, SIZE, HIDDEN = 4, 24, 32


def save_moe(folder: Path, seed: int, family: str = "qwen3_moe") -> None:
    """A tiny model with a matrix for each expert, as transformers saves it."""
    from transformers import MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(seed)
    sizes = {"vocab_size": 64, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 8, "num_experts_per_tok": 2}
    if family == "mixtral":
        config = MixtralConfig(**sizes, intermediate_size=SIZE, num_local_experts=EXPERTS)
        MixtralForCausalLM(config).save_pretrained(folder)
    else:
        config = Qwen3MoeConfig(**sizes, intermediate_size=48, moe_intermediate_size=SIZE, num_experts=EXPERTS)
        Qwen3MoeForCausalLM(config).save_pretrained(folder)


def fused(weights: dict[str, torch.Tensor], *, transposed: bool = False) -> dict[str, torch.Tensor]:
    """The experts of each layer in two tensors, under today's names."""
    result = {}
    for name, tensor in weights.items():
        if ".experts." not in name:
            result[name.replace("block_sparse_moe", "mlp")] = tensor
    names = ("gate_proj", "up_proj", "down_proj")
    names = ("w1", "w3", "w2") if any(".w1." in name for name in weights) else names
    for layer in range(2):
        module = next(n for n in weights if n.startswith(f"model.layers.{layer}.") and ".experts.0." in n)
        module = module.partition(".0.")[0] if layer else module[: module.index(".experts.0.") + len(".experts")]
        module = module if module.endswith(".experts") else module[: module.index(".experts") + len(".experts")]
        gate, up, down = (
            torch.stack([weights[f"{module}.{e}.{part}.weight"] for e in range(EXPERTS)]) for part in names
        )
        gate_up = torch.cat([gate, up], 1)
        target = module.replace("block_sparse_moe", "mlp")
        result[f"{target}.gate_up_proj"] = gate_up.transpose(1, 2) if transposed else gate_up
        result[f"{target}.down_proj"] = down.transpose(1, 2) if transposed else down
    return {name: tensor.contiguous() for name, tensor in result.items()}


def save_fused(source: Path, folder: Path, **layout: bool) -> None:
    shutil.copytree(source, folder)
    save_file(fused(load_file(source / "model.safetensors"), **layout), folder / "model.safetensors")


@pytest.fixture(scope="module", params=["qwen3_moe", "mixtral"])
def moes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, `a`, `b` with a matrix for each expert, and each of them `-fused` and `-turned`."""
    root = tmp_path_factory.mktemp(request.param)
    for seed, name in enumerate(("base", "a", "b")):
        save_moe(root / name, seed, request.param)
        save_fused(root / name, root / f"{name}-fused")
        save_fused(root / name, root / f"{name}-turned", transposed=True)
    return root


def ties(root: Path, base: str, *others: str) -> dict[str, torch.Tensor]:
    entries = [{"model": str(root / name), "parameters": {"weight": 0.7, "density": 0.4}} for name in others]
    return ws.merge({"merge_method": "ties", "base_model": str(root / base), "models": entries, "dtype": "float32"})


@pytest.mark.parametrize("others", [("a-fused", "b"), ("a", "b-turned"), ("a-turned", "b-fused")])
def test_a_base_with_split_experts_takes_fused_ones(others: tuple[str, str], moes: Path) -> None:
    expected = ties(moes, "base", "a", "b")
    merged = ties(moes, "base", *others)
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("others", [("a-fused", "b-fused"), ("a", "b"), ("a-turned", "b")])
def test_each_expert_is_merged_on_its_own_and_gate_apart_from_up(others: tuple[str, str], moes: Path) -> None:
    """TIES keeps the largest of each matrix: fused, the result is that of split experts, put together."""
    expected = fused(ties(moes, "base", "a", "b"))
    merged = ties(moes, "base-fused", *others)
    assert merged.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("method", ["ties", "breadcrumbs", "della", "model_stock", "slerp"])
def test_transposed_experts_are_merged_as_if_they_were_not(method: str, moes: Path) -> None:
    """A row is an output's, gate and up are apart, and the file keeps the base's form."""
    values = {"weight": 0.7, "density": 0.4} if method in ("ties", "breadcrumbs", "della") else {}
    values |= {"epsilon": 0.0} if method == "della" else {}
    names = ("base", "a") if method == "slerp" else ("a", "b")

    def merged(ending: str) -> dict[str, torch.Tensor]:
        models = [{"model": str(moes / f"{name}{ending}"), "parameters": values} for name in names]
        recipe = {"merge_method": method, "base_model": str(moes / f"base{ending}"), "models": models}
        return ws.merge(recipe | ({"parameters": {"t": 0.3}} if method == "slerp" else {}) | {"dtype": "float32"})

    straight, turned = merged("-fused"), merged("-turned")
    assert straight.keys() == turned.keys()
    for name, tensor in straight.items():
        expected = tensor.transpose(1, 2) if ".experts." in name else tensor
        torch.testing.assert_close(turned[name], expected, rtol=0, atol=0)


def save_large(folder: Path, seed: int, family: str) -> None:
    """A tiny model of a family whose files have all experts in one tensor, transposed."""
    from transformers import GptOssConfig, GptOssForCausalLM, Llama4ForCausalLM, Llama4TextConfig

    torch.manual_seed(seed)
    sizes = {"vocab_size": 64, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 8, "num_local_experts": EXPERTS, "num_experts_per_tok": 1}
    if family == "gpt_oss":
        model = GptOssForCausalLM(GptOssConfig(**sizes, intermediate_size=SIZE))
    else:
        config = Llama4TextConfig(
            **sizes, intermediate_size=SIZE, intermediate_size_mlp=48, interleave_moe_layer_step=1
        )
        model = Llama4ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    model.save_pretrained(folder)


def trimmed(delta: torch.Tensor, density: float) -> torch.Tensor:
    kept = delta.abs().flatten().topk(int(density * delta.numel())).indices
    return torch.zeros(delta.numel()).scatter(0, kept, delta.flatten()[kept]).reshape(delta.shape)


def ties_by_hand(base: torch.Tensor, tuned: list[torch.Tensor], weight: float, density: float) -> torch.Tensor:
    """Yadav et al. 2023, as mergekit computes it with `normalize`."""
    deltas = torch.stack([trimmed(other - base, density) * weight for other in tuned])
    agree = (deltas.sign() == deltas.sum(0).sign()) & (deltas != 0)
    return base + (deltas * agree).sum(0) / (agree * weight).sum(0).clamp(min=1e-8)


@pytest.mark.parametrize("family", ["gpt_oss", "llama4"])
def test_families_with_transposed_experts(family: str, tmp_path: Path) -> None:
    """gpt-oss has gate and up in turns, Llama 4 one after the other; the biases of experts are those of each expert."""
    for seed, name in enumerate(("base", "a", "b")):
        save_large(tmp_path / name, seed, family)
    merged = ties(tmp_path, "base", "a", "b")
    base, *tuned = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "a", "b"))
    tested = [name for name in base if ".experts." in name]
    assert len(tested) == (8 if family == "gpt_oss" else 4)
    for name in tested:
        for expert in range(EXPERTS):
            if "gate_up" not in name:
                places = [...]
            elif family == "gpt_oss":
                places = [(..., slice(0, None, 2)), (..., slice(1, None, 2))]
            else:
                places = [(..., slice(0, SIZE)), (..., slice(SIZE, None))]
            for place in places:
                expected = ties_by_hand(base[name][expert][place], [t[name][expert][place] for t in tuned], 0.7, 0.4)
                torch.testing.assert_close(merged[name][expert][place], expected, rtol=1e-5, atol=1e-6)


def test_random_choices_do_not_depend_on_where_matrices_end(moes: Path) -> None:
    """DARE draws by an element's place in its tensor."""
    entries = [{"model": str(moes / "a-fused"), "parameters": {"weight": 1.0, "density": 0.5}}]
    recipe = {"merge_method": "dare_linear", "base_model": str(moes / "base-fused"), "models": entries}
    merged = ws.merge(recipe | {"dtype": "float32", "parameters": {"normalize": False}})
    base, tuned = (load_file(moes / f"{name}-fused" / "model.safetensors") for name in ("base", "a"))
    name = next(name for name in merged if name.endswith("gate_up_proj"))
    kept = merged[name] != base[name]
    assert 0.4 < kept.float().mean() < 0.6
    moved = (merged[name] - base[name])[0, :SIZE][kept[0, :SIZE]]
    ratio = moved / (tuned[name] - base[name])[0, :SIZE][kept[0, :SIZE]]
    assert ratio.std() < 1e-2 * ratio.mean()  # one factor for each matrix
    assert not torch.equal(kept[0], kept[1])


def test_inspect_says_what_is_done(moes: Path) -> None:
    shown = weightsmith_process("inspect", moes / "base", moes / "a-fused")
    assert shown.returncode == 0, shown.stdout
    assert "2 models can be merged" in shown.stdout
    assert "its experts in one tensor, read one by one" in shown.stdout


def test_routers_keep_float32_where_they_had_it(moes: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(moes / name, tmp_path / name)
        weights = load_file(tmp_path / name / "model.safetensors")
        kept = {n: t if n.endswith(".gate.weight") else t.bfloat16() for n, t in weights.items()}
        bias = {f"model.layers.{n}.mlp.gate.e_score_correction_bias": torch.rand(EXPERTS) for n in range(2)}
        save_file(kept | bias, tmp_path / name / "model.safetensors")
    entries = [{"model": str(tmp_path / name), "parameters": {"weight": 0.5}} for name in "ab"]
    merged = ws.merge({"merge_method": "linear", "models": entries, "dtype": "bfloat16"})
    for name, tensor in merged.items():
        expected = torch.float32 if "gate.weight" in name or "e_score" in name else torch.bfloat16
        assert tensor.dtype == expected, name
    first, second = (load_file(tmp_path / n / "model.safetensors") for n in "ab")
    name = next(name for name in merged if name.endswith("e_score_correction_bias"))
    torch.testing.assert_close(merged[name], (first[name] + second[name]) / 2)


@pytest.mark.parametrize("base", ["base", "base-fused"])
@pytest.mark.parametrize("since", ["0.19", "0.18"])
def test_adapters_of_fused_parameters_are_those_of_peft(base: str, since: str, moes: Path, tmp_path: Path) -> None:
    """On a base in either form. Before peft 0.19, A and B read and wrote the other dimension."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(moes / "base")
    targets = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = LoraConfig(
        r=3, lora_alpha=5, target_modules=["q_proj"], target_parameters=targets, init_lora_weights=False
    )
    tuned = get_peft_model(model, config)
    tuned.save_pretrained(tmp_path / "adapter")
    expected = tuned.merge_and_unload().state_dict()
    if since == "0.18":
        path = tmp_path / "adapter/adapter_model.safetensors"
        weights = load_file(path)
        for name in [name for name in weights if "experts" in name and "lora_A" in name]:
            other = name.replace("lora_A", "lora_B")
            a, b = weights[name], weights[other]
            # The same change: delta[e] = B A, with A and B of the transposed matrix.
            down = b.reshape(len(b), 3, EXPERTS).permute(2, 1, 0).reshape(3 * EXPERTS, len(b))
            up = a.reshape(EXPERTS, 3, -1).permute(2, 1, 0).reshape(a.shape[1], 3 * EXPERTS)
            weights[name], weights[other] = down.contiguous(), up.contiguous()
        save_file(weights, path)
        settings = tmp_path / "adapter/adapter_config.json"
        settings.write_text(json.dumps(json.loads(settings.read_text()) | {"peft_version": "0.18.0"}))
    recipe = tmp_path / "r.yml"
    reference = f"{moes / base}+{tmp_path / 'adapter'}"
    recipe.write_text(
        yaml.safe_dump({"merge_method": "passthrough", "models": [{"model": reference}], "dtype": "float32"})
    )
    merged = ws.merge(recipe)
    merged = merged if base.endswith("fused") else fused(merged)
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
