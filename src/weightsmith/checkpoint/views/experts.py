"""Experts of one model in the two forms that files have: a matrix of each, or all of them in one tensor.

Of expert e, `gate` and `up` are [size, inputs] and `down` is [outputs, size]. Fused, `gate_up` is [experts, 2 size,
inputs] and `down` [experts, outputs, size], or as an `ExpertLayout` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from weightsmith.checkpoint.checkpoint import Checkpoint, TensorInfo, by_matrix
from weightsmith.checkpoint.views.expert_layout import ExpertLayout, arranged, straight


@dataclass(frozen=True)
class FusedTensor:
    """`parts[e]`: the names of expert e's matrices that are joined in the fused tensor `name`."""

    name: str
    parts: Sequence[tuple[str, ...]]
    layout: ExpertLayout


class SplitExperts:
    """A checkpoint with fused experts, each matrix a tensor of its own."""

    def __init__(self, source: Checkpoint, fused: Sequence[FusedTensor], others: Mapping[str, str]) -> None:
        """`others`: name here -> name in `source` of the tensors that stay whole."""
        self._source, self._others = straight(source, {tensor.name: tensor.layout for tensor in fused}), dict(others)
        self._places: dict[str, tuple[str, int]] = {}  # fused tensor, first element
        self.tensors: dict[str, TensorInfo] = {name: source.tensors[old] for name, old in others.items()}
        for tensor in fused:
            shape = (tensor.layout.rows, tensor.layout.columns)
            begins = (0, *tensor.layout.matrix_ends)
            names = (name for expert in tensor.parts for name in expert)
            for name, begin in zip(names, begins, strict=False):
                self._places[name] = tensor.name, begin
                self.tensors[name] = replace(source.tensors[tensor.name], shape=shape)

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        place = self._places.get(name)
        if place is None:
            return self._source.read(self._others[name], start, stop, out)
        fused, begin = place
        self._source.read(fused, begin + start, begin + stop, out)


def fuse_experts(source: Checkpoint, fused: Sequence[FusedTensor], others: Mapping[str, str]) -> Checkpoint:
    """A checkpoint with a matrix for each expert, all of them in one tensor. `others`: name here -> name in `source` of
    the tensors that stay as they are."""
    return arranged(_FusedExperts(source, fused, others), {tensor.name: tensor.layout for tensor in fused})


class _FusedExperts:
    """Straight."""

    def __init__(self, source: Checkpoint, fused: Sequence[FusedTensor], others: Mapping[str, str]) -> None:
        self._source, self._others = source, dict(others)
        self._fused = {tensor.name: tensor for tensor in fused}
        self.tensors: dict[str, TensorInfo] = {name: source.tensors[old] for name, old in others.items()}
        for tensor in fused:
            info = source.tensors[tensor.parts[0][0]]
            self.tensors[tensor.name] = replace(info, shape=tensor.layout.straight_shape)

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        tensor = self._fused.get(name)
        if tensor is None:
            return self._source.read(self._others[name], start, stop, out)
        size = tensor.layout.rows * tensor.layout.columns
        for number, begin, end, place in by_matrix(start, stop, size):
            expert, part = divmod(number, tensor.layout.parts)
            self._source.read(tensor.parts[expert][part], begin, end, out[place : place + end - begin])
