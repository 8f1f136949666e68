"""How the rows of a fused weight are divided among the matrices in it: query, key and value, gate and up."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from weightsmith.methods.tensor_settings import MatrixLayout

_HALVES = re.compile(r"\.(gate_up_proj|mlp\.Wi)\.weight$")
_ATTENTION = re.compile(r"\.(qkv_proj|query_key_value|Wqkv|qkv|c_attn)\.weight$")
_CONV1D = re.compile(r"\.(c_attn|c_proj|c_fc|q_attn)\.weight$")  # of GPT-2, stored [inputs, outputs]
_CONV1D_FAMILIES = ("gpt2", "openai-gpt", "decision_transformer", "imagegpt")
_BY_HEAD = (
    "gpt_neox",
    "bloom",
    "gpt_neox_japanese",
    "persimmon",
    "minimax",
)  # query, key and value of each head together
_TEXT = ("text_config", "llm_config", "language_config")


def matrix_layout(name: str, shape: Sequence[int], config: Mapping[str, Any]) -> MatrixLayout | None:
    """The matrices in a 2-d weight under its name in transformers; None where it is one, as `nn.Linear` stores it, or
    fused in a way that is not known here."""
    family = config.get("model_type")
    transposed = family in _CONV1D_FAMILIES and bool(_CONV1D.search(name))
    rows = shape[1] if transposed else shape[0]
    repeats, sizes = 1, (rows,)
    if _HALVES.search(name) and rows % 2 == 0:
        sizes = (rows // 2, rows // 2)
    elif match := _ATTENTION.search(name):
        repeats, sizes = _attention(match[1], rows, config)
    if repeats * sum(sizes) != rows:
        repeats, sizes = 1, (rows,)
    if len(sizes) == 1 and not transposed:
        return None
    return MatrixLayout(repeats, sizes, transposed)


def _attention(part: str, rows: int, config: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
    """(how often the sizes repeat, rows of query, key and value)."""
    thirds = (1, (rows // 3,) * 3)
    if part == "qkv":  # of vision towers
        return thirds
    text = next((config[key] for key in _TEXT if isinstance(config.get(key), Mapping)), config)
    heads = _number(text, "num_attention_heads", "n_head", "num_heads", "n_heads")
    if not heads:
        return thirds
    family = str(config.get("model_type"))
    size = _number(text, "head_dim", "kv_channels") or (
        (_number(text, "hidden_size", "n_embd", "d_model") or 0) // heads
    )
    key_heads = _number(text, "num_key_value_heads", "num_kv_heads", "multi_query_group_num") or heads
    if family in _BY_HEAD:
        return heads, (size,) * 3
    if family == "codegen":  # rows of four processors one after the other, as it was trained
        return 4, (rows // 12,) * 3
    if family == "falcon":
        if text.get("new_decoder_architecture"):
            return key_heads, (heads // key_heads * size, size, size)
        return (1, (heads * size, size, size)) if text.get("multi_query") else (heads, (size,) * 3)
    if family == "gpt_bigcode":
        return (1, (heads * size, size, size)) if text.get("multi_query", True) else (heads, (size,) * 3)
    attention = text.get("attn_config")
    if isinstance(attention, Mapping):
        key_heads = _number(attention, "kv_n_heads") or heads
    return 1, (heads * size, key_heads * size, key_heads * size)


def _number(config: Mapping[str, Any], *keys: str) -> int | None:
    return next((config[key] for key in keys if type(config.get(key)) is int and config[key] > 0), None)
