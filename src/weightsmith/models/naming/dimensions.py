"""Sizes that naming schemes speak of, read from a configuration: heads, their size, layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weightsmith.errors import CheckpointError, shown
from weightsmith.models.companion_files import config_of

Config = dict[str, Any]

# What counts something: at least this, or null; of vision models also a list, one for each stage.
COUNTS = {
    "hidden_size": 1,
    "n_embd": 1,
    "d_model": 1,
    "intermediate_size": 0,
    "num_hidden_layers": 0,
    "n_layer": 0,
    "num_layers": 0,
    "num_attention_heads": 1,
    "n_head": 1,
    "num_key_value_heads": 1,
    "head_dim": 1,
    "vocab_size": 0,
    "num_labels": 0,
    "num_experts": 0,
    "num_local_experts": 0,
    "n_routed_experts": 0,
}
_MOST = 100_000_000  # of anything that is counted
_MOST_LABELS = 1_000_000


def check_count(path: Path, name: str, key: str, value: object, *, least: int | None = None) -> None:
    """Raises CheckpointError where `value`, which `path` has under `name`, cannot be the count that `key` is for."""
    most, least = _MOST_LABELS if key == "num_labels" else _MOST, COUNTS[key] if least is None else least
    if value is not None and not (type(value) is int and least <= value <= most):
        raise CheckpointError(
            f"{path}: {name} is {shown(value)}; it counts something, so it is a whole number from {least} to {most:,}",
            path=path,
        )


def dimensions(config: Config, path: Path = Path("config.json")) -> dict[str, int]:
    """Sizes that schemes speak of, from a canonical configuration; `path`: where it is from. Raises
    CheckpointError."""
    heads = first_of(path, config, "num_attention_heads", "n_head", "n_heads")
    hidden = first_of(path, config, "hidden_size", "n_embd", "d_model")
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


def layer_count(config: Config, path: Path) -> int:
    return first_of(path, config, "num_hidden_layers", "n_layer", "n_layers")


def first_of(path: Path, config: Config, *keys: str) -> int:
    """The value of the first of `keys` that is there: families spell the same number differently. Raises
    CheckpointError."""
    for key in keys:
        if type(config.get(key)) is int and config[key] > 0:
            return config[key]
    raise CheckpointError(f"{path}: {config_of(path)} has no number under {' or '.join(keys)}", path=path)


def evaluate_size(expression: int | str, sizes: Mapping[str, int]) -> int:
    """`heads+2*kv_heads` as a number."""
    if isinstance(expression, int):
        return expression
    terms = (term.split("*") for term in expression.split("+"))
    return sum(math.prod(int(f) if f.strip().isdigit() else sizes[f.strip()] for f in term) for term in terms)
