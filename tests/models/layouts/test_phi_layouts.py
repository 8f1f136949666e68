"""Phi in its old layouts. The foreign files are written here by hand, independently of the schemes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import weightsmith
from tests.conftest import stderr_lines, weightsmith_process
from tests.mergekit_oracle import run_mergekit
from tests.transformers_436 import converter
from weightsmith.checkpoint.checkpoint import read_tensor
from weightsmith.checkpoint.dtypes import as_array
from weightsmith.models.open_model import open_model

LAYERS, HEADS, HEAD, HIDDEN = 3, 4, 8, 32
Weights = dict[str, torch.Tensor]


def old_config(**more) -> dict:
    return {
        "model_type": "phi-msft",
        "architectures": ["PhiForCausalLM"],
        "n_embd": HIDDEN,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_head_kv": None,
        "n_inner": None,
        "n_positions": 64,
        "rotary_dim": 4,
        "activation_function": "gelu_new",
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.1,
        "layer_norm_epsilon": 1e-5,
        "vocab_size": 96,
        "flash_attn": False,
        "flash_rotary": False,
        "fused_dense": False,
        "tie_word_embeddings": False,
        "auto_map": {"AutoModelForCausalLM": "modeling_phi.PhiForCausalLM"},
        "torch_dtype": "float32",
    } | more


def qkv(weights: Weights, n: int, kind: str) -> list[torch.Tensor]:
    return [weights[f"model.layers.{n}.self_attn.{p}_proj.{kind}"] for p in "qkv"]


def to_msft(weights: Weights, block: Callable[[int], str] = "transformer.h.{}".format, ends=None) -> Weights:
    embed, norm, head = ends or ("transformer.embd.wte", "lm_head.ln", "lm_head.linear")
    out = {f"{embed}.weight": weights["model.embed_tokens.weight"]}
    for kind in ("weight", "bias"):
        out[f"{norm}.{kind}"] = weights[f"model.final_layernorm.{kind}"]
        out[f"{head}.{kind}"] = weights[f"lm_head.{kind}"]
        for n in range(LAYERS):
            mine, reference = f"model.layers.{n}", block(n)
            out[f"{reference}.mixer.Wqkv.{kind}"] = torch.cat(qkv(weights, n, kind))
            out[f"{reference}.mixer.out_proj.{kind}"] = weights[f"{mine}.self_attn.dense.{kind}"]
            out[f"{reference}.ln.{kind}"] = weights[f"{mine}.input_layernorm.{kind}"]
            for part in ("fc1", "fc2"):
                out[f"{reference}.mlp.{part}.{kind}"] = weights[f"{mine}.mlp.{part}.{kind}"]
    return out


def to_sequential(weights: Weights) -> Weights:
    last = LAYERS + 1
    ends = ("layers.0.wte", f"layers.{last}.ln", f"layers.{last}.linear")
    return to_msft(weights, lambda n: f"layers.{n + 1}", ends)


def to_interleaved(weights: Weights) -> Weights:
    """transformers 4.36: convert_phi_weights_to_hf.py viewed the fused rows as (3, heads, ...) and swapped the two."""
    out = {k: v for k, v in weights.items() if not any(f".{p}_proj." in k for p in "qkv")}
    for n in range(LAYERS):
        for kind in ("weight", "bias"):
            fused = torch.cat(qkv(weights, n, kind))
            swapped = fused.view(3, HEADS, HEAD, -1).transpose(0, 1).reshape(fused.shape)
            out[f"model.layers.{n}.self_attn.query_key_value.{kind}"] = swapped
        out[f"model.layers.{n}.self_attn.rotary_emb.inv_freq"] = torch.arange(2.0)
    return out


LAYOUTS = {"phi-msft": to_msft, "sequential": to_sequential, "query_key_value": to_interleaved}


@pytest.fixture(scope="module")
def phis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, `one`, `two` in today's naming; each also as NAME-LAYOUT."""
    from transformers import PhiConfig, PhiForCausalLM

    root = tmp_path_factory.mktemp("phi")
    config = PhiConfig(
        vocab_size=96,
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=64,
        partial_rotary_factor=0.5,
        resid_pdrop=0.1,
        initializer_range=0.2,
    )
    for seed, name in enumerate(("base", "one", "two")):
        torch.manual_seed(seed)
        model = PhiForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        model.save_pretrained(root / name)
        weights = load_file(root / name / "model.safetensors")
        for layout, convert in LAYOUTS.items():
            folder = root / f"{name}-{layout}"
            folder.mkdir()
            save_file(
                {k: v.contiguous() for k, v in convert(weights).items()}, folder / "model.safetensors", {"format": "pt"}
            )
            current = layout == "query_key_value"
            config_values = json.loads((root / name / "config.json").read_text()) if current else old_config()
            (folder / "config.json").write_text(json.dumps(config_values))
            (folder / "modeling_phi.py").write_text("raise SystemExit('code of a model was run')\n")
    return root


def logits(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(40)[None] % 96).logits


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unified_weights_and_logits(layout: str, phis: Path, tmp_path: Path) -> None:
    done = weightsmith_process("unify", phis / f"base-{layout}", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert f"phi/{layout} naming" in done.stdout
    ours, reference = (load_file(f / "model.safetensors") for f in (tmp_path / "out", phis / "base"))
    assert ours.keys() == reference.keys()
    assert all(torch.equal(ours[name], reference[name]) for name in reference)
    assert torch.equal(logits(tmp_path / "out"), logits(phis / "base"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "auto_map" not in config and config["dtype"] == "float32"
    assert not list((tmp_path / "out").glob("*.py"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back(layout: str, phis: Path, tmp_path: Path) -> None:
    weightsmith.unify(str(phis / "base"), tmp_path / "plain")
    weightsmith.unify(str(tmp_path / "plain"), tmp_path / "old", to=layout)
    ours, reference = (load_file(f / "model.safetensors") for f in (tmp_path / "old", phis / f"base-{layout}"))
    assert ours.keys() == {name for name in reference if "inv_freq" not in name}
    assert all(torch.equal(ours[name], reference[name]) for name in ours)
    config_values = json.loads((tmp_path / "old" / "config.json").read_text())
    assert layout == "query_key_value" or (
        config_values["n_embd"],
        config_values["n_inner"],
        config_values["rotary_dim"],
    ) == (
        HIDDEN,
        4 * HIDDEN,
        4,
    )
    weightsmith.unify(str(tmp_path / "old"), tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_fused_layout_as_transformers_436_made_it(phis: Path, tmp_path: Path) -> None:
    reference = converter("phi", "convert_phi_weights_to_hf", tmp_path)
    old = load_file(phis / "one-sequential" / "model.safetensors")
    mapping = {k.replace("layers.25", f"layers.{LAYERS + 1}"): v for k, v in reference.PHI_MAPPING.items()}
    config = SimpleNamespace(num_hidden_layers=LAYERS, num_attention_heads=HEADS, hidden_size=HIDDEN)
    fused = reference.convert_weights(dict(old), mapping, config)
    shutil.copytree(phis / "one-query_key_value", tmp_path / "fused")
    save_file({k: v.contiguous() for k, v in fused.items()}, tmp_path / "fused" / "model.safetensors", {"format": "pt"})
    ours, plain = (open_model(str(f)).checkpoint for f in (tmp_path / "fused", phis / "one"))
    assert ours.tensors == plain.tensors
    assert all(torch.equal(read_tensor(ours, n), read_tensor(plain, n)) for n in plain.tensors)


def test_layouts_that_cannot_be_written(phis: Path, models: Path, tmp_path: Path) -> None:
    for model, layout, message in (
        (phis / "base", "phi-msfd", "unknown layout 'phi-msfd'; known: "),
        (models / "base", "phi-msft", "one of phi models"),
    ):
        done = weightsmith_process("unify", model, tmp_path / "out", "--to", layout)
        assert done.returncode == 2
        assert message in done.stderr
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_range(layout: str, phis: Path) -> None:
    ours, reference = (open_model(str(phis / n)).checkpoint for n in (f"base-{layout}", "base"))
    for name, info in reference.tensors.items():
        whole = read_tensor(reference, name).flatten()
        for start, stop in ((0, 0), (0, 1), (1, info.numel), (info.numel // 3, info.numel // 3 + 5)):
            part = torch.empty(min(stop, info.numel) - start)
            ours.read(name, start, start + len(part), as_array(part))
            assert torch.equal(part, whole[start : start + len(part)]), name


def recipe(folders: list[Path]) -> dict:
    models = [{"model": str(f), "parameters": {"weight": 0.7, "density": 0.4}} for f in folders[1:]]
    return {"merge_method": "ties", "base_model": str(folders[0]), "models": models, "dtype": "float32"}


def test_mixed_layouts_merge_like_converted_ones(phis: Path, tmp_path: Path) -> None:
    mixed = [phis / "base", phis / "one-phi-msft", phis / "two-query_key_value"]
    alike = [phis / name for name in ("base", "one", "two")]
    for name, folders in (("mixed", mixed), ("alike", alike)):
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(recipe(folders)))
        done = weightsmith_process("merge", tmp_path / f"{name}.yml", tmp_path / name)
        assert done.returncode == 0, done.stderr
        messages = [line for line in done.stderr.splitlines() if "naming" in line]
        assert len(messages) == (2 if name == "mixed" else 0)
    assert (tmp_path / "mixed" / "model.safetensors").read_bytes() == (
        tmp_path / "alike" / "model.safetensors"
    ).read_bytes()


def test_mergekit_stops_at_the_mixed_recipe(phis: Path, tmp_path: Path) -> None:
    """What it says depends on which old layout it meets; the last is the report that this project was born from."""
    with pytest.raises(ValueError, match="model type `phi-msft` but Transformers does not recognize this architecture"):
        run_mergekit(recipe([phis / "base", phis / "one-phi-msft", phis / "two-query_key_value"]), tmp_path / "1")
    with pytest.raises(
        RuntimeError, match=r"Tensor model\.layers\.0\.self_attn\.q_proj\.weight required but not present in model"
    ):
        run_mergekit(recipe([phis / "base", phis / "two-query_key_value"]), tmp_path / "2")
    shutil.copytree(phis / "one-phi-msft", tmp_path / "orange")
    config_values = json.loads(
        (phis / "base" / "config.json").read_text()
    )  # a fine-tune whose config.json alone was brought up to date
    (tmp_path / "orange" / "config.json").write_text(json.dumps(config_values))
    with pytest.raises(RuntimeError, match=r"Tensor model\.\S+ required but not present in model"):
        run_mergekit(recipe([phis / "base", tmp_path / "orange"]), tmp_path / "3")
    (tmp_path / "r.yml").write_text(yaml.safe_dump(recipe([phis / "base", tmp_path / "orange"])))
    done = weightsmith_process("merge", tmp_path / "r.yml", tmp_path / "out")
    assert done.returncode == 0 and "phi/phi-msft naming" in done.stderr, done.stderr


@pytest.mark.parametrize("wrapper", ["module.", "base_model.model.", "_orig_mod."])
def test_wrapped_names(wrapper: str, phis: Path, tmp_path: Path) -> None:
    weights = load_file(phis / "one-phi-msft" / "model.safetensors")
    save_file({wrapper + k: v for k, v in weights.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(old_config()))
    ours, reference = (open_model(str(f)).checkpoint for f in (tmp_path, phis / "one"))
    assert set(ours.tensors) == set(reference.tensors)
    for name in reference.tensors:
        assert torch.equal(read_tensor(ours, name), read_tensor(reference, name))


def test_buffers_are_listed_and_left_out(phis: Path) -> None:
    model = open_model(str(phis / "one-query_key_value"))
    assert tuple(model.left_out) == tuple(f"model.layers.{n}.self_attn.rotary_emb.inv_freq" for n in range(LAYERS))
    assert set(model.left_out.values()) == {"buffer: rotary frequencies"}


DAMAGE: dict[str, tuple[Callable[[Weights], None], dict, str]] = {
    "a layer in the middle": (lambda w: [w.pop(k) for k in list(w) if ".h.1." in k] and None, {}, "layer 1 is missing"),
    "two layouts": (
        lambda w: w.update({"model.layers.0.self_attn.q_proj.weight": torch.zeros(32, 32)}),
        {},
        "has no place in the layout phi/phi-msft",
    ),
    "rows that do not divide": (
        lambda w: w.update({"transformer.h.0.mixer.Wqkv.weight": torch.zeros(95, 32)}),
        {},
        "do not divide",
    ),
    "more layers than told": (lambda w: None, {"n_layer": 2}, "outside the 2 layers"),
    "fewer layers than told": (lambda w: None, {"n_layer": 4}, "says 4 layers, the weights have 3"),
    "other heads": (lambda w: None, {"n_embd": 48}, "do not divide"),
    "no size": (lambda w: None, {"n_embd": None}, "the key n_embd is missing"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_models(case: str, phis: Path, tmp_path: Path) -> None:
    damage, config_values, message = DAMAGE[case]
    weights = load_file(phis / "one-phi-msft" / "model.safetensors")
    damage(weights)
    (tmp_path / "bad").mkdir()
    save_file(weights, tmp_path / "bad" / "model.safetensors", {"format": "pt"})
    (tmp_path / "bad" / "config.json").write_text(json.dumps(old_config(**config_values)))
    done = weightsmith_process("unify", tmp_path / "bad", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and len(stderr_lines(done)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["bad"]


@pytest.mark.parametrize("base", ["base", "base-phi-msft", "base-query_key_value"])
def test_an_adapter_in_old_names(base: str, phis: Path, tmp_path: Path) -> None:
    """LoRA trained on `Wqkv` goes to the same rows of today's q, k and v."""
    torch.manual_seed(3)
    delta, factors = {}, {}
    for n in range(LAYERS):
        for module, rows in ((f"transformer.h.{n}.mixer.Wqkv", 3 * HIDDEN), (f"transformer.h.{n}.mlp.fc1", 4 * HIDDEN)):
            a, b = torch.randn(2, HIDDEN), torch.randn(rows, 2)
            key = f"base_model.model.{module}"
            factors |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
            delta[f"{module}.weight"] = 2.0 * (b @ a)
    save_file(factors, tmp_path / "adapter_model.safetensors")
    config_values = {"peft_type": "LORA", "lora_alpha": 4, "r": 2, "bias": "none"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config_values))
    model = open_model(f"{phis / base}+{tmp_path}")
    assert "phi/phi-msft naming, added to the rows" in (model.conversion or "") and model.lora_ranks == (2,)
    plain = load_file(phis / "base" / "model.safetensors")
    for n in range(LAYERS):
        for i, p in enumerate("qkv"):
            name = f"model.layers.{n}.self_attn.{p}_proj.weight"
            rows = delta[f"transformer.h.{n}.mixer.Wqkv.weight"][i * HIDDEN : (i + 1) * HIDDEN]
            assert torch.allclose(read_tensor(model.checkpoint, name), plain[name] + rows, atol=1e-5)
    assert torch.equal(read_tensor(model.checkpoint, "lm_head.weight"), plain["lm_head.weight"])
