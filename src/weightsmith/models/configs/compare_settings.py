"""Settings of config.json that change what weights of the same shapes mean: four heads or eight, one rope base or
another.

Only what both models declare is compared, in one spelling: `rope_theta` with `rope_scaling` (transformers 4) is
`rope_parameters` (transformers 5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What it is called here -> its keys in config.json. With another value the weights are those of another function.
_FUNCTION = {
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_key_value_heads", "n_head_kv", "num_kv_heads"),
    "head_dim": ("head_dim", "attention_head_dim"),
    "activation": ("hidden_activation", "hidden_act", "activation_function", "activation", "mlp_hidden_act"),
    "norm": ("norm_type", "normalization_type", "layer_norm_type", "use_rms_norm", "rms_norm"),
    "norm before or after": ("do_layer_norm_before", "norm_before", "use_post_norm", "apply_residual_post_layernorm"),
    "parallel residual": ("use_parallel_residual", "parallel_attn"),
    "position embedding": ("position_embedding_type", "alibi", "pos_emb_type", "relative_attention"),
    "rotary dimensions": ("partial_rotary_factor", "rotary_pct", "rotary_dim"),
    "rope interleaved": ("rope_interleave", "rope_interleaved"),
    "experts per token": ("num_experts_per_tok", "moe_k", "top_k_experts"),
    "layer_types": ("layer_types", "layers_block_type", "attention_types"),
    "scoring of experts": ("scoring_func", "norm_topk_prob"),
}
# With another value they are the same function, a little differently.
_DEGREE = {
    "sliding_window": ("sliding_window", "window_size", "attention_window"),
    "norm eps": (
        "rms_norm_eps",
        "layer_norm_eps",
        "layer_norm_epsilon",
        "norm_eps",
        "norm_epsilon",
        "layernorm_epsilon",
    ),
    "attention logit softcapping": ("attn_logit_softcapping",),
    "final logit softcapping": ("final_logit_softcapping",),
    "query scale": ("query_pre_attn_scalar", "attention_multiplier"),
    "logit scale": ("logit_scale", "logits_scaling", "lm_head_multiplier"),
    "embedding scale": ("embedding_multiplier", "scale_emb", "embedding_scale"),
    "residual scale": ("residual_multiplier", "scale_depth"),
    "routed scaling factor": ("routed_scaling_factor",),
}
_SAME = {"swish": "silu", "gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new", "gelu_accurate": "gelu_new"}
_TEXT = ("text_config", "llm_config", "language_config")


@dataclass(frozen=True)
class SettingDifference:
    """`name` has the value `first` in one model and `second` in another; `breaks`: a merge of the two is of two
    functions."""

    name: str
    first: Any
    second: Any
    breaks: bool

    def __str__(self) -> str:
        """`num_attention_heads 8 (not 4)`: of the second model, and of the first."""
        return f"{self.name} {_shown(self.second)} (not {_shown(self.first)})"


def compare_settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[SettingDifference]:
    """The differences between two configurations of one family, what breaks first."""
    parts = _text(first), _text(second)
    differences = []
    for names, breaks in ((_FUNCTION, True), (_DEGREE, False)):
        for name, keys in names.items():
            values = [_declared(part, keys, name) for part in parts]
            if None not in values and not _equal(values[0], values[1]):
                differences.append(SettingDifference(name, values[0], values[1], breaks))
    ropes = [_rope(part) for part in parts]
    for name in sorted(ropes[0].keys() & ropes[1].keys()):
        if not _equal(ropes[0][name], ropes[1][name]):
            differences.append(SettingDifference(name, ropes[0][name], ropes[1][name], False))
    return differences


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((config[key] for key in _TEXT if isinstance(config.get(key), Mapping)), config)


def _declared(part: Mapping[str, Any], keys: tuple[str, ...], name: str) -> Any:
    value = next((part[key] for key in keys if part.get(key) is not None), None)
    if name == "activation":
        if part.get("model_type") in ("gemma", "gemma2") and part.get("hidden_activation") is None:
            return None  # its class passes over hidden_act
        return _SAME.get(value, value) if isinstance(value, str) else None
    if name == "num_key_value_heads" and value is None and "num_key_value_heads" in part:
        return _declared(part, _FUNCTION["num_attention_heads"], "")
    if name == "rotary dimensions" and value is None and isinstance(part.get("rope_parameters"), Mapping):
        return part["rope_parameters"].get("partial_rotary_factor")
    if name == "sliding_window" and part.get("use_sliding_window") is False:
        return None
    return value


def _rope(part: Mapping[str, Any]) -> dict[str, Any]:
    """`rope theta` and `rope scaling`, of each kind of layer where kinds have their own."""
    parameters = part.get("rope_parameters")
    if isinstance(parameters, Mapping) and any(isinstance(value, Mapping) for value in parameters.values()):
        kinds = [(f" of {kind}", dict(value)) for kind, value in parameters.items() if isinstance(value, Mapping)]
    elif isinstance(parameters, Mapping):
        kinds = [("", dict(parameters))]
    elif any(part.get(key) is not None for key in ("rope_theta", "rotary_emb_base", "rope_scaling")):
        scaling = part.get("rope_scaling")
        one = dict(scaling) if isinstance(scaling, Mapping) else {}
        one.setdefault("rope_theta", part.get("rope_theta", part.get("rotary_emb_base", 10000.0)))
        kinds = [("", one)]
        if part.get("rope_local_base_freq") is not None:  # Gemma 3
            kinds = [
                (" of full_attention", one),
                (" of sliding_attention", {"rope_theta": part["rope_local_base_freq"]}),
            ]
    else:
        return {}
    settings: dict[str, Any] = {}
    for ending, one in kinds:
        kind = one.pop("rope_type", one.pop("type", "default")) or "default"
        one.pop("type", None)
        one.pop("partial_rotary_factor", None)
        settings[f"rope theta{ending}"] = one.pop("rope_theta", 10000.0)
        scaled = {key: value for key, value in one.items() if value is not None}
        settings[f"rope scaling{ending}"] = {"rope_type": kind, **scaled} if kind != "default" else "none"
    return settings


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return all(_equal(first.get(key), second.get(key)) for key in {*first, *second})
    numbers = [value for value in (first, second) if isinstance(value, int | float)]
    if len(numbers) == 2:
        return math.isclose(numbers[0], numbers[1], rel_tol=1e-6)  # GGUF keeps float32
    return first == second


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(one)}" for key, one in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
