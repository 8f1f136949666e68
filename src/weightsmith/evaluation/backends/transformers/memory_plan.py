"""How much fits into memory: positions whose keys and values are kept, and nodes of one forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from weightsmith.machine import device_memory

_BEST_PACK = (
    512  # nodes: larger ones attend to more that is masked, smaller ones multiply slower (measured, docs/benchmarks.md)
)


_LEAST_PACK = 32
_DEVICE_PACK = 4096  # on a GPU: twice as many multiply no faster and attend to twice as much; not measured yet


_PROCESSOR = torch.device("cpu")


@dataclass(frozen=True)
class MemoryPlan:
    """`pack`: nodes per forward pass; `kept`: positions with keys and values, of all sequences together (the cache may
    have half as many again in reserve)."""

    pack: int
    kept: int


def plan_memory(
    config: Any, weights: int, itemsize: int, limit: int | None, device: torch.device = _PROCESSOR
) -> MemoryPlan:
    """The memory plan for a model of `weights` bytes that computes in `itemsize` bytes per element, within `limit`
    bytes in all (by default three quarters of what is free now on `device`, the weights being loaded already)."""
    config = config.get_text_config()
    free = limit - weights if limit else device_memory(str(device))[0] * 3 // 4
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys_and_values = 2 * config.num_hidden_layers * heads * size * itemsize
    activations = 4 * config.hidden_size + 3 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    node = 2 * keys_and_values + activations * itemsize + config.vocab_size * (itemsize + 4)
    pack = int(min(_BEST_PACK if device.type == "cpu" else _DEVICE_PACK, free // 4 // node))
    return MemoryPlan(max(pack, _LEAST_PACK), max(int(free // 2 // keys_and_values), 1))
