"""Experts of one model in the two forms that files have: a matrix of each, or all of them in one tensor.

Of expert e, `gate` and `up` are [size, inputs] and `down` is [outputs, size]. Fused, `gate_up` is [experts, 2 size,
inputs], the gate's rows first, and `down` [experts, outputs, size]; or both are transposed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from weightsmith.checkpoint.checkpoint import Checkpoint, TensorInfo, read_transposed


@dataclass(frozen=True)
class FusedTensor:
    """`parts[e]`: the names of expert e's matrices that lie one under the other in the fused tensor `name`."""

    name: str
    parts: Sequence[tuple[str, ...]]
    transposed: bool


class SplitExperts:
    """A checkpoint with fused experts, each matrix a tensor of its own."""

    def __init__(self, source: Checkpoint, fused: Sequence[FusedTensor], others: Mapping[str, str]) -> None:
        """`others`: name here -> name in `source` of the tensors that stay whole."""
        self._source, self._others = source, dict(others)
        self._places: dict[str, tuple[FusedTensor, int, int]] = {}  # expert, number of its part
        self.tensors: dict[str, TensorInfo] = {name: source.tensors[old] for name, old in others.items()}
        for tensor in fused:
            info = source.tensors[tensor.name]
            rows, columns = info.shape[2:0:-1] if tensor.transposed else info.shape[1:]
            for expert, names in enumerate(tensor.parts):
                for number, name in enumerate(names):
                    self._places[name] = tensor, expert, number
                    self.tensors[name] = replace(info, shape=(rows // len(names), columns))

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        place = self._places.get(name)
        if place is None:
            return self._source.read(self._others[name], start, stop, out)
        tensor, expert, number = place
        matrix = self.tensors[name].numel * len(tensor.parts[expert])
        first = number * self.tensors[name].numel
        if not tensor.transposed:
            begin = expert * matrix + first
            return self._source.read(tensor.name, begin + start, begin + stop, out)
        rows, columns = self._source.tensors[tensor.name].shape[1:]

        def read(begin: int, end: int, into: np.ndarray) -> None:
            self._source.read(tensor.name, expert * matrix + begin, expert * matrix + end, into)

        read_transposed(read, (rows, columns), first + start, first + stop, out)


class FusedExperts:
    """A checkpoint with a matrix for each expert, all of them in one tensor."""

    def __init__(self, source: Checkpoint, fused: Sequence[FusedTensor], others: Mapping[str, str]) -> None:
        """`others`: name here -> name in `source` of the tensors that stay as they are."""
        self._source, self._others = source, dict(others)
        self._fused = {tensor.name: tensor for tensor in fused}
        self.tensors: dict[str, TensorInfo] = {name: source.tensors[old] for name, old in others.items()}
        for tensor in fused:
            info = source.tensors[tensor.parts[0][0]]
            rows, columns = len(tensor.parts[0]) * info.shape[0], info.shape[1]
            shape = (columns, rows) if tensor.transposed else (rows, columns)
            self.tensors[tensor.name] = replace(info, shape=(len(tensor.parts), *shape))

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        tensor = self._fused.get(name)
        if tensor is None:
            return self._source.read(self._others[name], start, stop, out)
        matrix = self.tensors[name].numel // len(tensor.parts)
        while start < stop:
            expert, begin = divmod(start, matrix)
            end = min(matrix, begin + stop - start)
            self._read_expert(tensor, expert, begin, end, out[: end - begin])
            out, start = out[end - begin :], start + end - begin

    def _read_expert(self, tensor: FusedTensor, expert: int, start: int, stop: int, out: np.ndarray) -> None:
        names = tensor.parts[expert]
        part = self._source.tensors[names[0]]
        if not tensor.transposed:
            for number, name in enumerate(names):
                low, high = number * part.numel, (number + 1) * part.numel
                first, last = max(start, low), min(stop, high)
                if first < last:
                    self._source.read(name, first - low, last - low, out[first - start : last - start])
            return
        rows, columns = part.shape  # a row of the fused matrix has a column of each part
        width = rows * len(names)
        first, last = start // width, -(-stop // width)
        whole = np.empty((last - first, width), out.dtype)
        for number, name in enumerate(names):
            block = np.empty((last - first) * rows, out.dtype)

            def read(begin: int, end: int, into: np.ndarray, name: str = name) -> None:
                self._source.read(name, begin, end, into)

            read_transposed(read, (rows, columns), first * rows, last * rows, block)
            whole[:, number * rows : (number + 1) * rows] = block.reshape(last - first, rows)
        out[:] = whole.reshape(-1)[start - first * width : stop - first * width]
