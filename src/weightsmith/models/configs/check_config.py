"""Whether config.json agrees with the tensors that are there, for the families whose sizes are known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.checkpoint import TensorInfo
from weightsmith.errors import CheckpointError
from weightsmith.models.naming.dimensions import dimensions, evaluate_size

_FAMILIES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "phi",
    "phi3",
    "glm",
    "starcoder2",
    "gpt_neox",
    "gpt2",
)
_KEYS = {"vocab": ("vocab_size",), "hidden": ("hidden_size", "n_embd"), "intermediate": ("intermediate_size",)}
# (the tensor, its dimension, the size it has)
_SIZES = (
    (r"(.*\.)?(embed_tokens|wte|embed_in)\.weight", 0, "vocab"),
    (r"(.*\.)?(embed_tokens|wte|embed_in)\.weight", 1, "hidden"),
    (r"(lm_head|embed_out)\.weight", 0, "vocab"),
    (r".*\.self_attn\.q_proj\.weight", 0, "heads*head_dim"),
    (r".*\.self_attn\.[kv]_proj\.weight", 0, "kv_heads*head_dim"),
    (r".*\.self_attn\.qkv_proj\.weight", 0, "heads*head_dim+2*kv_heads*head_dim"),
    (r".*\.mlp\.(gate_proj|up_proj|fc1|c_fc|dense_h_to_4h)\.weight", 0, "intermediate"),
    (r".*\.mlp\.gate_up_proj\.weight", 0, "2*intermediate"),
    (r".*\.mlp\.down_proj\.weight", 1, "intermediate"),
)


def check_shapes(path: Path, tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> None:
    """Raises CheckpointError, naming `path`, tensor and key, at the first shape that the configuration does not tell
    of."""
    if config.get("model_type") not in _FAMILIES:
        return
    try:
        sizes = dimensions(dict(config))
    except (CheckpointError, TypeError, ZeroDivisionError):
        return  # it says too little to be compared with anything
    sizes |= {name: next((config[k] for k in keys if config.get(k)), 0) for name, keys in _KEYS.items()}
    for name, info in tensors.items():
        for pattern, axis, expression in _SIZES:
            if len(info.shape) != 2 or not re.fullmatch(pattern, name):
                continue
            if config["model_type"] == "gpt2" and ".mlp." in name:  # its matrices lie the other way
                continue
            expected = evaluate_size(expression, sizes)
            if expected and isinstance(expected, int) and info.shape[axis] != expected:
                raise CheckpointError(
                    f"{path}: says {expected} ({_describe(expression)}), tensor {name!r} is {list(info.shape)}; one of "
                    "them belongs to another model; download both again",
                    path=path,
                )


def _describe(expression: str) -> str:
    return {"vocab": "vocab_size", "hidden": "hidden_size", "intermediate": "intermediate_size"}.get(
        expression, expression
    )
