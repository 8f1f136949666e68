"""Keys and values of a batch in memory that neither grows nor moves, so that a device can repeat a step by itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer


@dataclass
class _Place:
    """Where the model's next keys and values go: into columns up to `end` of the rows `first` to `last`; or, one for
    each row, into `column` (int64 [1], on the device)."""

    rows: int
    positions: int
    first: int = 0
    last: int = 0
    end: int = 0
    column: torch.Tensor | None = None


class _FixedLayer(DynamicLayer):
    def __init__(self, place: _Place) -> None:
        super().__init__()
        self._place = place
        self.memory: list[torch.Tensor] = []  # keys and values, [rows, heads, positions, head size]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        rows, positions = self._place.rows, self._place.positions
        self.memory = [
            states.new_zeros(rows, states.shape[1], positions, states.shape[3]) for states in (key_states, value_states)
        ]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        place, found = self._place, []
        for memory, states in zip(self.memory, (key_states, value_states), strict=True):
            if place.column is not None:
                found.append(memory.index_copy_(2, place.column, states))
                continue
            part = memory[place.first : place.last, :, : place.end]
            part[:, :, place.end - states.shape[2] :] = states
            found.append(part)
        self.keys, self.values = found
        return found[0], found[1]


class FixedCache(Cache):
    """Zeros, for `rows` sequences of at most `positions`."""

    def __init__(self, rows: int, positions: int) -> None:
        self.place = _Place(rows, positions)
        layer_of_place: Any = partial(_FixedLayer, self.place)
        super().__init__(layer_class_to_replicate=layer_of_place)

    def part(self, first: int, last: int, end: int) -> None:
        """What the model computes next goes into columns up to `end` of these rows, which it sees up to there."""
        self.place.first, self.place.last, self.place.end, self.place.column = first, last, end, None

    def put(self, stem: Cache, first: int, last: int) -> None:
        """The keys and values of `stem`, one sequence, become the first ones of these rows."""
        layer: Any
        for number, layer in enumerate(stem.layers):
            if number == len(self.layers):
                self.layers.append(_FixedLayer(self.place))
            of_batch: Any = self.layers[number]
            if not of_batch.is_initialized:
                of_batch.lazy_initialization(layer.keys, layer.values)
            for memory, states in zip(of_batch.memory, (layer.keys, layer.values), strict=True):
                memory[first:last, :, : states.shape[2]] = states

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Forget all rows but these (int64 [rows])."""
        self.place.rows = len(rows)
        layer: Any
        for layer in self.layers:
            layer.memory = [memory[rows] for memory in layer.memory]
