"""Keys and values that grow in place: transformers' own cache copies all of them for every token that is added."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer


class _GrowingLayer(DynamicLayer):
    """`keys` and `values`, [batch, heads, positions, head size], are the first positions of memory that doubles when it is full."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._memory = [self._room(states, 0) for states in (key_states, value_states)]
        self.keys, self.values = (memory[..., :0, :] for memory in self._memory)

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
                wider = self._room(states, max(end, 2 * begin))
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


def padded_together(caches: list[Cache], room: int) -> Cache:
    """One cache of several with batch size 1: each row begins with as many zeros as it is shorter than the longest; `room` positions
    more are set aside."""
    together = growing_cache()
    widest = max(cache.get_seq_length() for cache in caches)
    for number, layer in enumerate(caches[0].layers):
        target = _GrowingLayer()
        target.lazy_initialization(layer.keys, layer.values)
        target._memory = []
        for name in ("keys", "values"):
            one = getattr(layer, name)
            memory = one.new_zeros(len(caches), one.shape[1], widest + room, one.shape[3])
            for row, cache in enumerate(caches):
                states = getattr(cache.layers[number], name)
                memory[row, :, widest - states.shape[2] : widest] = states[0]
            target._memory.append(memory)
        target.keys, target.values = (memory[..., :widest, :] for memory in target._memory)
        together.layers.append(target)
        for cache in caches:
            cache.layers[number].keys = cache.layers[number].values = None  # memory for the next layer
            cache.layers[number]._memory = []
    return together
