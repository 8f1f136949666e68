"""Every class of the installed transformers that can be made tiny: saved as transformers saves it, merged, loaded again.

python -m tests.models.atlas [--part K/N] [--only NAME,NAME] > rows.tsv
python -m tests.models.atlas --table rows.tsv        # as docs/models.md has it
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "width", "embedding_size"), 64),
    **dict.fromkeys(("hidden_size_per_layer_input", "emb_dim", "word_embed_proj_dim", "d_embed"), 64),
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "n_inner", "ffn_hidden_size", "d_inner"), 96),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "hidden_dim", "intermediate_dim", "mlp_dim"), 96),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_dim", "expert_ffn_size"), 32),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "intermediate_size_mlp", "shared_intermediate_size"), 32),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "attention_heads", "num_encoder_attention_heads"), 4),
    **dict.fromkeys(("num_decoder_attention_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "n_head_kv", "num_kv_heads", "linear_num_key_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "attention_head_dim", "global_head_dim", "linear_key_head_dim"), 16),
    **dict.fromkeys(("linear_value_head_dim", "mamba_d_head", "mamba_head_dim", "kv_channels"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "top_k_experts", "moe_topk", "num_selected_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "num_shared_experts"), 1),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "lora_rank", "v_head_dim", "index_head_dim"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "state_size", "ssm_state_size", "mamba_d_state"), 8),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "text_vocab_size"), 160),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "max_source_positions"), 64),
    **dict.fromkeys(("max_target_positions", "seq_length", "max_seq_length"), 64),
    **dict.fromkeys(("image_size", "input_size"), 32),
    **dict.fromkeys(("patch_size",), 8),
    "mamba_n_heads": 8,
    "mamba_num_heads": 8,
    "mamba_expand": 2,
    "n_groups": 1,
    "mamba_n_groups": 1,
    "type_vocab_size": 2,
    "sliding_window": 16,
    "projection_dim": 64,
    "out_hidden_size": 64,
    "num_kv_shared_layers": 0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "max_window_layers": 2,
    "first_k_dense_replace": 1,
    "temporal_patch_size": 1,
}
DEPTH_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "depth")
DEPTH_KEYS += ("num_decoder_layers", "num_encoder_layers")
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
ROPES = {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}}
INDEXER = {"indexer_budget": 16, "indexer_compress_ratio": 4, "indexer_n_heads": 4, "indexer_kv_heads": 1}
INDEXER |= {"indexer_head_dim": 16}
VOICE = {"num_filters": 4, "downsampling_ratios": [2, 2], "depths": [1, 1, 1]}
# What the sizes above do not fit together for, by the beginning of the class's name.
OWN: dict[str, dict[str, Any]] = {
    "Blt": {"encoder_hash_byte_group_vocab": 100, "encoder_hash_byte_group_nb_functions": 1},
    "Dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2}},
    "Dots1": {"n_routed_experts": 4, "num_local_experts": 4, "n_shared_experts": 1, "moe_intermediate_size": 32},
    "Dots3Note": {"text_config": {"num_key_value_heads": 4, "head_dim": 24}, "num_key_value_heads": 4, "head_dim": 24},
    "FalconH1": {"mamba_d_ssm": 128, "mamba_d_head": 16, "mamba_n_heads": 8},
    "Gemma4Assistant": {"text_config": {"hidden_size_per_layer_input": 0}, "hidden_size_per_layer_input": 0},
    "Lfm2Moe": {"layer_types": ["conv", "full_attention"] * 2},
    "LongcatFlash": {"expert_ffn_hidden_size": 32, "n_routed_experts": 4, "zero_expert_num": 2, "hidden_size": 64},
    "Mamba2": {"num_heads": 8, "head_dim": 16},
    "Nemotron": {"num_key_value_heads": 2},
    "Qwen4Exp": {"text_config": INDEXER, **INDEXER},
    "ReformerModelWithLMHead": {"is_decoder": True, "axial_pos_embds": False},
    "ReformerFor": {"axial_pos_embds": False},
    "XLNet": {"d_head": 16},
    "CohereCompass": {"text_config": ROPES, **ROPES},
    "Chameleon": {"vocabulary_map": {"<image>": 5, "IMGIMGA": 6}},
    "Emu3": {
        "vocabulary_map": {"<|extra_200|>": 5, "<image>": 6, "<|visual token 000001|>": 7},
        "vq_config": {"base_channels": 32, "channel_multiplier": [1, 1]},
    },
    "Cosmos3Edge": {"text_config": {"rope_parameters": {"mrope_section": [4, 2, 2]}}},
    "Glm5Next": {"text_config": {"num_key_value_heads": 4}},
    "Granite4Vision": {"deepstack_layer_map": [[0, 0]], "downsample_rate": "1/2"},
    "Inkling2": {"vision_config": {"text_hidden_size": 64}},
    "Molmo2": {"adapter_config": {"vision_feature_layer": [3, 2]}},
    "FunAsrNano": {"adaptor_config": {"intermediate_size": 16}},
    "Nemotron3_5Transcribe": {"head_config": {"audio_hidden_size": 64}},
    "Esm": {"vocab_size": 160},
    "Esmc": {"num_key_value_heads": 4},
    "Luke": {"entity_vocab_size": 100, "entity_emb_size": 64},
    "Perceiver": {"d_latents": 64, "d_model": 64, "num_latents": 16, "num_self_attends_per_block": 2},
    "PerceiverForImageClassificationFourier": {"num_self_attention_heads": 1, "num_cross_attention_heads": 1},
    "PerceiverForImageClassificationConv": {"num_self_attention_heads": 1, "num_cross_attention_heads": 1},
    "Beit": {"out_features": None, "out_indices": None},
    "Dinov2": {"out_features": None, "out_indices": None},
    "DonutSwin": {"embed_dim": 48},
    "Swinv2": {"embed_dim": 48},
    "GraniteSpeech5": {"context_size": 32},
    "Wav2Vec2Bert": {"vocab_size": 160},
    "Wav2Vec2Conformer": {"vocab_size": 160},
    "EfficientNet": {"width_coefficient": 0.5, "depth_coefficient": 0.5},
    "Janus": {"vq_config": {"base_channels": 32, "channel_multiplier": [1, 1]}},
    "Florence2": {
        "vision_config": {
            "embed_dim": [32, 32, 64, 64],
            "depths": [1, 1, 1, 1],
            "num_heads": [2] * 4,
            "num_groups": [2] * 4,
            "projection_dim": 64,
        }
    },
    "DeepseekOcr2": {"text_config": {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}},
    "DiffusionGemma": {"text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}},
    "NeoMME": {"layer_types": ["sliding_attention", "full_attention"] * 2, "per_layer_config": None},
    "VibeVoice": {"acoustic_tokenizer_encoder_config": VOICE, "semantic_tokenizer_encoder_config": VOICE},
    "KyutaiSpeechToText": {"codec_config": {"hidden_size": 512, "num_filters": 16}},
}
PERIODIC = ("jamba", "qwen3_next", "qwen3_5", "llama4", "zamba", "granitemoehybrid", "bamba", "olmo_hybrid")


@dataclass
class Row:
    """`result`: works, refused, wrong, or `not made` where no tiny one can be built; `stacked` likewise, of layers."""

    name: str
    kind: str
    result: str
    reason: str = ""
    stacked: str = ""


def classes() -> Iterator[tuple[str, str]]:
    """(name of a class, its kind), each once."""
    from transformers.models.auto import modeling_auto as auto

    seen: set[str] = set()
    for kind, mapping in (
        ("causal", auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        ("image-text", auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
        ("seq2seq", auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
        ("speech", auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES),
        ("encoder", auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES),
        ("classifier", auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
        ("image", auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES),
        ("audio", auto.MODEL_FOR_CTC_MAPPING_NAMES),
    ):
        for names in mapping.values():
            for name in names if isinstance(names, tuple) else (names,):
                if name not in seen:
                    seen.add(name)
                    yield name, kind


def tiny_config(model_class: Any) -> Any:
    """The class's default configuration with small numbers, sub-configurations too."""
    defaults = model_class.config_class().to_dict()
    depth = 8 if any(part in defaults.get("model_type", "") for part in PERIODIC) else 4
    small = _shrunk(defaults, depth)
    for beginning, settings in OWN.items():
        if model_class.__name__.startswith(beginning):
            small = _overlaid(small, settings)
    return model_class.config_class.from_dict(small)


def _overlaid(settings: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`own` over the settings; that of a part into the part, where there is one."""
    parts = {key: value for key, value in own.items() if key.endswith("_config")}
    into = {key: _overlaid(settings[key], value) for key, value in parts.items() if settings.get(key)}
    return {**settings, **{key: value for key, value in own.items() if key not in parts}, **into}


def _shrunk(settings: dict[str, Any], depth: int) -> dict[str, Any]:
    old = next((settings[key] for key in DEPTH_KEYS if type(settings.get(key)) is int), None)
    small: dict[str, Any] = {}
    for key, value in settings.items():
        if value is None and key == "head_dim":
            small[key] = SIZES[key]
        elif key == "per_layer_config" and isinstance(value, dict):
            small[key] = {number: entry for number, entry in value.items() if int(number) < depth}
        elif isinstance(value, dict) and (key.endswith("config") or key in ("encoder", "decoder")):
            small[key] = _shrunk(value, depth)
        elif key in DEPTH_KEYS and type(value) is int:
            small[key] = depth
        elif isinstance(value, list) and old and len(value) == old and old > depth:
            small[key] = value[:depth]
        elif key in SIZES and type(value) is int:
            small[key] = min(value, SIZES[key]) if value > 0 else value
        elif key.endswith(("_token_id", "_token_index")) and type(value) is int and value > 150:
            small[key] = 100 + sum(map(ord, key)) % 50
        else:
            small[key] = value
    small.pop("transformers_version", None)
    return small


def save_three(model_class: Any, root: Path) -> Any:
    """`base`, `a` and `b` as transformers saves them. Returns the model, which holds `base`."""
    torch.manual_seed(0)
    model = model_class(tiny_config(model_class)).eval()
    if sum(parameter.numel() for parameter in model.parameters()) > 30_000_000:
        raise ValueError("its parts cannot be made small")
    base = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.save_pretrained(root / "base")
    for seed, folder in enumerate("ab", start=1):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.is_floating_point():
                    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                    parameter.copy_(base[name] + 0.02 * noise.to(parameter.dtype))
        model.save_pretrained(root / folder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(base[name])
    return model


def check(name: str, kind: str) -> Row:
    """Task arithmetic of one class against arithmetic by hand, and for causal ones a stack of layers."""
    import transformers
    from safetensors import safe_open

    import weightsmith as ws

    model_class = getattr(transformers, name, None)
    if model_class is None:
        return Row(name, kind, "not made", "not in this version")
    root = Path(tempfile.mkdtemp(prefix="atlas-"))
    try:
        with quiet():
            try:
                save_three(model_class, root)
            except Exception as error:
                return Row(name, kind, "not made", f"{type(error).__name__}: {str(error).splitlines()[0][:80]}")
            entries = [{"model": str(root / n), "parameters": {"weight": w}} for n, w in (("a", 0.6), ("b", 0.3))]
            recipe = {"merge_method": "task_arithmetic", "base_model": str(root / "base"), "models": entries}
            recipe["parameters"] = {"normalize": False}
            try:
                ws.merge(recipe, root / "out")
            except ws.WeightsmithError as error:
                return Row(name, kind, "refused", str(error).replace(f"{root}/", "")[:200])
            except Exception as error:
                return Row(name, kind, "wrong", f"{type(error).__name__}: {str(error)[:160]}")
            stored = {}
            for folder in ("base", "a", "b", "out"):
                stored[folder] = {}
                for file in sorted((root / folder).glob("*.safetensors")):
                    with safe_open(file, "pt") as opened:
                        stored[folder] |= {key: opened.get_tensor(key) for key in list(opened.keys())}
            if gone := stored["base"].keys() - stored["out"].keys():
                return Row(name, kind, "wrong", f"not written: {sorted(gone)[:3]}")
            for key, tensor in stored["out"].items():
                base = stored["base"][key]
                if not base.is_floating_point():
                    expected = base
                else:
                    first, second = (stored[n][key].float() - base.float() for n in "ab")
                    expected = (base.float() + 0.6 * first + 0.3 * second).to(base.dtype)
                if tensor.dtype != expected.dtype or not torch.allclose(tensor, expected, rtol=1e-2, atol=1e-5):
                    return Row(name, kind, "wrong", f"{key} is other than arithmetic by hand")
            loaded, report = model_class.from_pretrained(root / "out", output_loading_info=True)
            problems = [k for k in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[k]]
            if problems:
                return Row(name, kind, "wrong", f"{problems[0]}: {sorted(map(str, report[problems[0]]))[:2]}")
            row = Row(name, kind, "works")
            if kind == "causal":
                row.reason = _finite(loaded)
                row.stacked = _stack(model_class, root)
            return row
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _finite(model: Any) -> str:
    try:
        with torch.no_grad():
            logits = model(torch.arange(3, 19).reshape(1, -1)).logits
    except Exception as error:
        return f"not run: {type(error).__name__}"
    return "" if torch.isfinite(logits).all() else "logits are not finite"


def _stack(model_class: Any, root: Path) -> str:
    """Layers 0 to 2 and 1 to 4: each output tensor is that of the layer it comes from, and the class loads them."""
    import weightsmith as ws
    from weightsmith.models.parts.stacks import find_stacks

    model = ws.open_model(str(root / "base"))
    stack = find_stacks(model.tensors, model.config).main
    if stack is None:
        return "refused: no one stack of layers"
    half = stack.depth // 2
    ranges = [[0, half], [half - 1, stack.depth]]
    slices = [{"sources": [{"model": str(root / "base"), "layer_range": r}]} for r in ranges]
    try:
        ws.merge({"merge_method": "passthrough", "slices": slices}, root / "stacked")
    except ws.WeightsmithError as error:
        return "refused: " + str(error).replace(f"{root}/", "")[:300]
    except Exception as error:
        return f"wrong: {type(error).__name__}: {str(error)[:120]}"
    _, report = model_class.from_pretrained(root / "stacked", output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[key]:
            return f"wrong: {key} {sorted(map(str, report[key]))[:2]}"
    before = json.loads((root / "base/config.json").read_text())
    after = json.loads((root / "stacked/config.json").read_text())
    taken = [n for first, last in ranges for n in range(first, last)]
    for place in ((), ("text_config",)):
        old, new = before, after
        for key in place:
            old, new = old.get(key, {}), new.get(key, {})
        for key, value in old.items():
            if key == "layer_types" and new[key] != [value[n] for n in taken]:
                return f"wrong: {key}"
    return "works"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield


def table(rows: list[Row]) -> str:
    """Markdown: the classes by kind and result, with the reasons of those that do not work."""
    lines = ["| kind | works | refused | wrong | no tiny one could be made |", "| ---- | ---: | ---: | ---: | ---: |"]
    for kind in dict.fromkeys(row.kind for row in rows):
        counts = [
            sum(row.kind == kind and row.result == result for row in rows)
            for result in ("works", "refused", "wrong", "not made")
        ]
        lines.append(f"| {kind} | {' | '.join(map(str, counts))} |")
    for title, chosen in (
        ("Stacked layers are refused", [row for row in rows if row.stacked.startswith("refused")]),
        ("Refused, or wrong", [row for row in rows if row.result in ("refused", "wrong") or "wrong" in row.stacked]),
    ):
        if chosen:
            lines += ["", f"{title}:", ""]
            lines += [f"- `{row.name}`: {_short(row.stacked or row.reason)}" for row in chosen]
    for kind in dict.fromkeys(row.kind for row in rows):
        works = [row.name for row in rows if row.kind == kind and row.result == "works"]
        lines += ["", f"Merged right, {kind}: {', '.join(works)}."]
    missing = [row.name for row in rows if row.result == "not made"]
    return "\n".join([*lines, "", f"No tiny one could be made: {', '.join(missing)}."])


def _short(reason: str) -> str:
    return reason.removeprefix("refused: ").removeprefix("recipe: ").partition(". Take layers")[0]


def main(show: Callable[[str], None] = print) -> None:
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    if rows := arguments.get("--table"):
        fields = (line.split("\t") for line in Path(rows).read_text(encoding="utf-8").splitlines())
        return show(table([Row(name, kind, result, reason, stacked) for result, kind, name, stacked, reason in fields]))
    part, parts = map(int, arguments.get("--part", "0/1").split("/"))
    chosen = list(classes())[part::parts]
    if only := arguments.get("--only"):
        chosen = [(name, kind) for name, kind in classes() if name in only.split(",")]
    for name, kind in chosen:
        row = check(name, kind)
        show("\t".join((row.result, row.kind, row.name, row.stacked, row.reason.replace("\n", " "))))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
