"""Whether config.json agrees with the tensors that are there, for the families whose sizes are known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.checkpoint import TensorInfo
from weightsmith.errors import CheckpointError, shown
from weightsmith.models.naming.dimensions import COUNTS, check_count, dimensions, evaluate_size

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


_ONE_NUMBER = ("hidden_size", "num_attention_heads", "num_hidden_layers", "n_layer", "vocab_size")  # of text models
_TEXTS = ("model_type",)
_PARTS = ("text_config", "vision_config", "audio_config", "llm_config", "language_config")


def check_values(path: Path, config: Mapping[str, Any]) -> None:
    """Raises CheckpointError, naming the key, for a value that no model has: a count that is no number, or is below
    what it can be."""
    for key in COUNTS:
        value = config.get(key)
        several = not (key in _ONE_NUMBER and "vocab_size" in config)
        for count in value if several and isinstance(value, list) and value else [value]:
            check_count(path, key, key, count)
    for key in _TEXTS:
        if config.get(key) is not None and not isinstance(config[key], str):
            raise CheckpointError(f"{path}: {key} is {shown(config[key])}, which is no name", path=path)
    classes = config.get("architectures")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise CheckpointError(f"{path}: architectures is {shown(classes)}, which is no list of names", path=path)
    for key in _PARTS:
        part = config.get(key)
        if part is not None and not isinstance(part, dict):
            raise CheckpointError(f"{path}: {key} is {shown(part)}, not an object", path=path)
        if isinstance(part, dict):
            check_values(path, part)


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
                    f"{path}: says {expected} ({_describe(expression)}), tensor {name!r} is {list(info.shape)}: "
                    "they are of two models; take both files from one revision of the repository",
                    path=path,
                )


def _describe(expression: str) -> str:
    return {"vocab": "vocab_size", "hidden": "hidden_size", "intermediate": "intermediate_size"}.get(
        expression, expression
    )
