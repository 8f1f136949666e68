"""Keys and values that grow in place: transformers' own cache copies all of them for every token that is added."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from inspect import signature
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer


class _GrowingLayer(DynamicLayer):
    """`keys` and `values`, [batch, heads, positions, head size], are the first positions of memory that grows by half
    when it is full."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._memory = [self._room(states, 0) for states in (key_states, value_states)]
        self.keys, self.values = (memory[..., :0, :] for memory in self._memory)

    @classmethod
    def with_rows(cls, like: Any, rows: int, positions: int, room: int) -> _GrowingLayer:
        """Zeros for `rows` sequences of what the layer `like` holds of one."""
        layer = cls()
        layer.lazy_initialization(like.keys, like.values)
        layer._memory = [
            states.new_zeros(rows, states.shape[1], positions + room, states.shape[3])
            for states in (like.keys, like.values)
        ]
        layer.keys, layer.values = (memory[..., :positions, :] for memory in layer._memory)
        return layer

    @staticmethod
    def _room(states: torch.Tensor, positions: int) -> torch.Tensor:
        return states.new_empty(*states.shape[:-2], positions, states.shape[-1])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        for number, states in enumerate((key_states, value_states)):
            if self._memory[number].shape[-2] < end:
                wider = self._room(states, max(end, begin + begin // 2))
                wider[..., :begin, :] = self._memory[number][..., :begin, :]
                self._memory[number] = wider
            self._memory[number][..., begin:end, :] = states
        self.keys, self.values = (memory[..., :end, :] for memory in self._memory)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.keys.shape[-2] if self.is_initialized and self.keys is not None else 0

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        length = self.get_seq_length()
        self._memory = [memory[indices] for memory in self._memory]
        self.keys, self.values = (memory[..., :length, :] for memory in self._memory)


def growing_cache() -> Cache:
    """An empty one, for as many layers as the model has."""
    return Cache(layer_class_to_replicate=_GrowingLayer)


def padded_together(caches: Iterable[Cache], count: int, longest: int, room: int) -> Cache:
    """One cache for a batch, of `count` caches with batch size 1 that come one after the other (they may be the same
    object): each row begins with as many zeros as it is shorter than `longest`, and has room for `room` positions
    more."""
    batch_cache = growing_cache()
    for row, cache in enumerate(caches):
        layer: Any
        for number, layer in enumerate(cache.layers):
            if row == 0:
                batch_cache.layers.append(_GrowingLayer.with_rows(layer, count, longest, room))
            target: Any = batch_cache.layers[number]
            for into, states in ((target.keys, layer.keys), (target.values, layer.values)):
                into[row, :, longest - states.shape[-2] :] = states[0]
    return batch_cache


def cache_argument(model: Any, cache: Any) -> dict[str, Any]:
    """`cache` under the name that the model's `forward` has for it: transformers 5.24 calls it so, before it was
    `past_key_values`."""
    return {"cache" if "cache" in _parameters(type(model)) else "past_key_values": cache}


@lru_cache(maxsize=16)
def _parameters(model_class: type) -> frozenset[str]:
    return frozenset(signature(model_class.forward).parameters)  # type: ignore[attr-defined]
