"""Sizes that naming schemes speak of, read from a configuration: heads, their size, layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from weightsmith.errors import CheckpointError

Config = dict[str, Any]


def dimensions(config: Config) -> dict[str, int]:
    """Sizes that schemes speak of, from a canonical configuration."""
    heads = first_of(config, "num_attention_heads", "n_head", "n_heads")
    hidden = first_of(config, "hidden_size", "n_embd", "d_model")
    head = config.get("head_dim") or hidden // heads
    key_value = config.get("num_key_value_heads") or heads
    return {
        "heads": heads,
        "kv_heads": key_value,
        "group": heads // key_value,
        "head_dim": head,
        "half_head": head // 2,
        "hidden": hidden,
        "intermediate": config.get("intermediate_size") or 0,
    }


def layer_count(config: Config) -> int:
    return first_of(config, "num_hidden_layers", "n_layer", "n_layers")


def first_of(config: Config, *keys: str) -> int:
    """The value of the first of `keys` that is there: families spell the same number differently. Raises
    CheckpointError."""
    for key in keys:
        if type(config.get(key)) is int and config[key] > 0:
            return config[key]
    raise CheckpointError(f"config.json has no number under {' or '.join(keys)}")


def evaluate_size(expression: int | str, sizes: Mapping[str, int]) -> int:
    """`heads+2*kv_heads` as a number."""
    if isinstance(expression, int):
        return expression
    terms = (term.split("*") for term in expression.split("+"))
    return sum(math.prod(int(f) if f.strip().isdigit() else sizes[f.strip()] for f in term) for term in terms)
