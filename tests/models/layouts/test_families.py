"""Families in their original layouts. Each is a tiny model of today's class, taken apart here by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import weightsmith
import weightsmith.errors
from tests.transformers_436 import converter, converter_path
from weightsmith.models.open_model import open_model

Weights = dict[str, torch.Tensor]
SIZE = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
COMMON = SIZE | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 64}
FEW_HEADS = COMMON | {"num_key_value_heads": 2}


@dataclass
class Case:
    """`today`: model type and configuration of the current class; `old`: its weights as they were published."""

    today: str
    settings: dict[str, Any]
    old: Callable[[Weights], Weights]
    config: dict[str, Any] | None = None  # None: today's
    messages: str | None = None
    ignored: int = 0
    back: str | None = None
    drop: tuple[str, ...] = field(default=())


def renamed(weights: Weights, pairs: list[tuple[str, str]]) -> Weights:
    out = {}
    for name, value in weights.items():
        for new, old in pairs:
            name = name.replace(new, old)
        out[name] = value
    return out


def fuse(
    weights: Weights, make: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor], name: str
) -> Weights:
    out = dict(weights)
    for n in range(2):
        for kind in ("weight", "bias"):
            parts = [out.pop(f"model.layers.{n}.self_attn.{p}_proj.{kind}", None) for p in "qkv"]
            if parts[0] is not None:
                out[f"model.layers.{n}.{name}.{kind}"] = make(*parts)
    return out


def stack(*parts: torch.Tensor) -> torch.Tensor:
    return torch.cat(parts)


def old_phi3(weights: Weights) -> Weights:
    out = dict(weights)
    for n in range(2):
        names = [f"model.layers.{n}.self_attn.{p}_proj.weight" for p in "qkv"]
        qkv = out.pop(f"model.layers.{n}.self_attn.qkv_proj.weight")
        out |= dict(zip(names, qkv.split([32, 16, 16]), strict=True))
        gate, up = out.pop(f"model.layers.{n}.mlp.gate_up_proj.weight").chunk(2)
        out |= {f"model.layers.{n}.mlp.gate_proj.weight": gate, f"model.layers.{n}.mlp.up_proj.weight": up}
    return out


def old_qwen(weights: Weights) -> Weights:
    pairs = [
        ("model.embed_tokens", "transformer.wte"),
        ("model.norm", "transformer.ln_f"),
        ("model.layers.", "transformer.h."),
        ("input_layernorm", "ln_1"),
        ("post_attention_layernorm", "ln_2"),
        ("self_attn.o_proj", "attn.c_proj"),
        ("gate_proj", "w2"),
        ("up_proj", "w1"),
        ("down_proj", "c_proj"),
    ]
    return renamed(fuse(weights, stack, "attn.c_attn"), pairs)


def old_internlm2(weights: Weights) -> Weights:
    def grouped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        rows = []
        for group in range(2):  # two key-value heads, two query heads for each
            rows += [q[16 * group : 16 * group + 16], k[8 * group : 8 * group + 8], v[8 * group : 8 * group + 8]]
        return torch.cat(rows)

    pairs = [
        ("embed_tokens", "tok_embeddings"),
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attention.wo"),
        ("mlp.gate_proj", "feed_forward.w1"),
        ("mlp.up_proj", "feed_forward.w3"),
        ("mlp.down_proj", "feed_forward.w2"),
        ("lm_head", "output"),
    ]
    return renamed(fuse(weights, grouped, "attention.wqkv"), pairs)


def old_glm(weights: Weights) -> Weights:
    pairs = [
        ("model.embed_tokens", "transformer.embedding.word_embeddings"),
        ("model.norm", "transformer.encoder.final_layernorm"),
        ("model.layers", "transformer.encoder.layers"),
        ("lm_head", "transformer.output_layer"),
        ("self_attn.o_proj", "self_attention.dense"),
        ("gate_up_proj", "dense_h_to_4h"),
        ("down_proj", "dense_4h_to_h"),
    ]
    out = renamed(fuse(weights, stack, "self_attention.query_key_value"), pairs)
    return out | {"transformer.rotary_pos_emb.inv_freq": torch.arange(2.0)}


def bare(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {k.removeprefix(prefix): v for k, v in weights.items()}


def old_gpt2(weights: Weights) -> Weights:
    mask = torch.ones(1, 1, 64, 64).tril()
    buffers = {f"h.{n}.attn.bias": mask.clone() for n in range(2)}
    return bare("transformer.")({k: v for k, v in weights.items() if k != "lm_head.weight"}) | buffers


def old_neox(weights: Weights) -> Weights:
    extra: Weights = {}
    for n in range(2):
        here = f"gpt_neox.layers.{n}.attention"
        extra[f"{here}.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()
        extra[f"{here}.masked_bias"] = torch.tensor(-1e9)
        extra[f"{here}.rotary_emb.inv_freq"] = torch.arange(2.0)
    return weights | extra


def old_metaseq(weights: Weights) -> Weights:
    out = {}
    for name, value in weights.items():
        name = name.removeprefix("model.")
        if name.startswith("decoder.final_layer_norm."):
            name = name.replace("final_layer_norm", "layer_norm")
        out[name] = value
    for n in range(2):
        for kind in ("weight", "bias"):
            parts = [out.pop(f"decoder.layers.{n}.self_attn.{p}_proj.{kind}") for p in "kvq"]
            out[f"decoder.layers.{n}.self_attn.qkv_proj.{kind}"] = torch.cat(parts)
    return out | {"decoder.version": torch.tensor([3.0])}


def old_nano_gpt(weights: Weights) -> Weights:
    matrices = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    return {k: v.T if k.endswith(matrices) else v for k, v in weights.items() if k != "lm_head.weight"}


def multimodal(weights: Weights) -> Weights:
    return {
        ("model.language_model." + k.removeprefix("model.") if k.startswith("model.") else k): v
        for k, v in weights.items()
    }


QWEN1 = {
    "model_type": "qwen",
    "architectures": ["QWenLMHeadModel"],
    "auto_map": {"AutoModelForCausalLM": "modeling_qwen.Q"},
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "layer_norm_epsilon": 1e-6,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "seq_length": 64,
    "kv_channels": 8,
    "max_position_embeddings": 64,
    "attn_dropout_prob": 0.0,
    "no_bias": True,
    "tie_word_embeddings": False,
}
INTERNLM2 = SIZE | {
    "model_type": "internlm2",
    "architectures": ["InternLM2ForCausalLM"],
    "bias": False,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
BAICHUAN = SIZE | {
    "model_type": "baichuan",
    "architectures": ["BaiChuanForCausalLM"],
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
CHATGLM = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "padded_vocab_size": 96,
    "hidden_size": 32,
    "num_layers": 2,
    "num_attention_heads": 4,
    "multi_query_group_num": 2,
    "multi_query_attention": True,
    "kv_channels": 8,
    "ffn_hidden_size": 48,
    "layernorm_epsilon": 1.5625e-07,
    "seq_length": 64,
    "add_qkv_bias": True,
    "rope_ratio": 50,
    "add_bias_linear": False,
    "rmsnorm": True,
    "pad_token_id": 0,
    "eos_token_id": [2],
}
FALCON = {
    "model_type": "RefinedWebModel",
    "architectures": ["RWForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 32,
    "n_layer": 2,
    "n_head": 4,
    "multi_query": True,
    "parallel_attn": True,
    "bias": False,
    "alibi": False,
}

MPT = {"d_model": 32, "n_heads": 4, "n_layers": 2, "vocab_size": 96, "max_seq_len": 64, "expansion_ratio": 2}
LLAVA = {
    "model_type": "llava",
    "architectures": ["LlavaForConditionalGeneration"],
    "text_config": FEW_HEADS | {"model_type": "llama"},
}

CASES = {
    "phi3 split": Case("phi3", FEW_HEADS, old_phi3, None, "phi3/split", back="phi3/split"),
    "qwen1": Case("qwen2", COMMON | {"num_key_value_heads": 4}, old_qwen, QWEN1, "qwen2/qwen1", back="qwen1"),
    "internlm2": Case("llama", FEW_HEADS, old_internlm2, INTERNLM2, "llama/internlm2", back="internlm2"),
    "baichuan": Case(
        "llama", COMMON, lambda w: fuse(w, stack, "self_attn.W_pack"), BAICHUAN, "llama/baichuan", back="baichuan"
    ),
    "chatglm": Case(
        "glm",
        FEW_HEADS
        | {
            "head_dim": 8,
            "attention_bias": True,
            "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default", "partial_rotary_factor": 0.5},
        },
        old_glm,
        CHATGLM,
        "glm/chatglm",
        ignored=1,
        back="chatglm",
    ),
    "falcon": Case(
        "falcon",
        {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
        dict,
        FALCON,
        "falcon/RefinedWebModel",
        back="RefinedWebModel",
    ),
    "gpt2": Case(
        "gpt2",
        {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
        old_gpt2,
        ignored=2,
        back="bare",
        drop=("lm_head.weight",),
    ),
    "gpt-neox": Case("gpt_neox", COMMON, old_neox, ignored=6),
    "bloom": Case(
        "bloom",
        {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        bare("transformer."),
        back="bare",
        drop=("lm_head.weight",),
    ),
    "opt": Case(
        "opt",
        COMMON | {"ffn_dim": 48, "word_embed_proj_dim": 32},
        bare("model."),
        back="bare",
        drop=("lm_head.weight",),
    ),
    "opt metaseq": Case(
        "opt",
        COMMON | {"ffn_dim": 48, "word_embed_proj_dim": 32},
        old_metaseq,
        None,
        "opt/metaseq",
        ignored=1,
        back="metaseq",
        drop=("lm_head.weight",),
    ),
    "nanoGPT": Case(
        "gpt2",
        {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
        old_nano_gpt,
        None,
        "gpt2/linear",
        back="gpt2/linear",
        drop=("lm_head.weight",),
    ),
    "mpt": Case(
        "mpt",
        MPT,
        dict,
        MPT
        | {
            "model_type": "mpt",
            "architectures": ["MPTForCausalLM"],
            "auto_map": {"AutoModelForCausalLM": "modeling_mpt.MPTForCausalLM"},
            "init_device": "cpu",
            "verbose": 0,
        },
        "mpt/mosaic",
        back="mosaic",
        drop=("lm_head.weight",),
    ),
    "multimodal": Case("llama", FEW_HEADS, multimodal, LLAVA),
    "fully sharded": Case(
        "qwen2",
        FEW_HEADS,
        lambda w: {
            f"_fsdp_wrapped_module.{k.replace('layers.1.', 'layers.1._fsdp_wrapped_module.')}": v for k, v in w.items()
        },
    ),
    "llama without model.": Case("llama", FEW_HEADS, bare("model."), back="bare"),
    "llama with two": Case(
        "llama", FEW_HEADS, lambda w: {"model." + k if k.startswith("model.") else k: v for k, v in w.items()}
    ),
    "mistral wrapped twice": Case("mistral", FEW_HEADS, lambda w: {f"module._orig_mod.{k}": v for k, v in w.items()}),
    "starcoder2 as it is": Case("starcoder2", FEW_HEADS, dict),
}


def build(case: Case, folder: Path) -> Path:
    """`new`, saved by transformers, and `old`, written by hand."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(case.today, **case.settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    folder.mkdir(exist_ok=True)
    model.save_pretrained(folder / "new")
    weights = {k: v for k, v in load_file(folder / "new" / "model.safetensors").items() if k not in case.drop}
    (folder / "old").mkdir()
    old = {k: v.contiguous() for k, v in case.old(weights).items()}
    save_file(old, folder / "old" / "model.safetensors", {"format": "pt"})
    config = case.config or json.loads((folder / "new" / "config.json").read_text())
    (folder / "old" / "config.json").write_text(json.dumps(config))
    return folder


def logits(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(loading.values()), loading
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(3, 40)[None]).logits


@pytest.mark.parametrize("name", CASES)
def test_same_weights_and_logits(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    build(case, tmp_path)
    done = weightsmith.unify(str(tmp_path / "old"), tmp_path / "out")
    assert len(done.left_out) == case.ignored
    assert case.messages is None or (done.conversion or "").startswith(f"{case.messages} naming")
    ours, reference = (load_file(tmp_path / f / "model.safetensors") for f in ("out", "new"))
    assert ours.keys() == reference.keys() - set(case.drop)
    assert all(torch.equal(ours[k], reference[k]) for k in ours)
    assert torch.equal(logits(tmp_path / "out"), logits(tmp_path / "new"))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.back])
def test_there_and_back(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    build(case, tmp_path)
    weightsmith.unify(str(tmp_path / "old"), tmp_path / "out")
    weightsmith.unify(str(tmp_path / "out"), tmp_path / "back", to=case.back)
    ours, reference = (load_file(tmp_path / f / "model.safetensors") for f in ("back", "old"))
    assert all(torch.equal(ours[k], reference[k]) for k in ours)
    assert len(ours) == len(reference) - case.ignored
    weightsmith.unify(str(tmp_path / "back"), tmp_path / "again")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "out" / file).read_bytes()


def test_metaseq_as_transformers_436_reads_it(tmp_path: Path) -> None:
    """Its converter takes the PyTorch file of the original; so do we, output projection and all."""
    build(CASES["opt metaseq"], tmp_path)
    weights = load_file(tmp_path / "old" / "model.safetensors")
    weights["decoder.output_projection.weight"] = weights["decoder.embed_tokens.weight"]
    (tmp_path / "old" / "model.safetensors").unlink()
    torch.save({"model": weights}, tmp_path / "old" / "model.pt")
    reference = converter("opt", "convert_opt_original_pytorch_checkpoint_to_pytorch", tmp_path)
    expected = {f"model.{k}": v for k, v in reference.load_checkpoint(tmp_path / "old" / "model.pt").items()}
    weightsmith.unify(str(tmp_path / "old"), tmp_path / "out")
    ours = load_file(tmp_path / "out" / "model.safetensors")
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[k], expected[k]) for k in ours)


def test_falcon_configuration_as_transformers_436_translates_it(tmp_path: Path) -> None:
    """Its script rewrites config.json in place; the keys it sets are ours."""
    for name, more in (("RefinedWebModel", {}), ("RefinedWeb", {"n_head_kv": 2, "alibi": False})):
        case = Case(
            "falcon",
            CASES["falcon"].settings | ({"new_decoder_architecture": True, "num_kv_heads": 2} if more else {}),
            dict,
            FALCON | {"model_type": name, "auto_map": {"AutoConfig": "x.Y"}} | more,
        )
        folder = build(case, tmp_path / name)
        weightsmith.unify(str(folder / "old"), folder / "out")
        for file in ("configuration_RW.py", "modelling_RW.py"):
            (folder / "old" / file).write_text("")
        script = converter_path("falcon", "convert_custom_code_checkpoint", folder)
        subprocess.run([sys.executable, script, "--checkpoint_dir", folder / "old"], check=True, capture_output=True)
        ours, reference = (json.loads((folder / f / "config.json").read_text()) for f in ("out", "old"))
        assert {k: ours.get(k) for k in reference} == reference
        assert torch.equal(logits(folder / "out"), logits(folder / "old"))


def test_half_of_a_pair_is_missing(tmp_path: Path) -> None:
    build(CASES["phi3 split"], tmp_path)
    weights = load_file(tmp_path / "old" / "model.safetensors")
    for gone in ("gate_proj", "up_proj"):
        kept = {k: v for k, v in weights.items() if not (gone in k and ".1." in k)}
        save_file(kept, tmp_path / "old" / "model.safetensors", {"format": "pt"})
        with pytest.raises(weightsmith.errors.CheckpointError, match=f"layers.1.mlp.{gone}.weight' is missing"):
            open_model(str(tmp_path / "old"))


@pytest.mark.parametrize(
    "change,message", [({"vocab_size": 125696}, "Baichuan 2 normalizes"), ({"hidden_size": 5120}, "ALiBi")]
)
def test_what_no_class_computes_is_kept_and_not_unified(change: dict, message: str, tmp_path: Path) -> None:
    build(CASES["baichuan"], tmp_path)
    (tmp_path / "old" / "config.json").write_text(json.dumps(BAICHUAN | change))
    opened = open_model(str(tmp_path / "old"))
    assert (
        message in (opened.conversion or "") and "model.layers.0.self_attn.W_pack.weight" in opened.checkpoint.tensors
    )
    with pytest.raises(weightsmith.errors.CheckpointError, match=message):
        weightsmith.unify(str(tmp_path / "old"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
