"""Checkpoints that each hold a part of every tensor, as one: model-parallel files such as `consolidated.00.pth`,
`.01.pth`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from weightsmith.checkpoint.checkpoint import Checkpoint, TensorInfo
from weightsmith.errors import CheckpointError


class JoinedCheckpoint:
    """`axes[name]` says how a tensor was split: 0 by rows, 1 by columns, None: every part holds the whole of it.

    Raises CheckpointError, which names `files`, where the parts do not fit together.
    """

    def __init__(self, parts: Sequence[Checkpoint], files: Sequence[Path], axes: Mapping[str, int | None]) -> None:
        self._parts, self._axes = parts, axes
        self.tensors: dict[str, TensorInfo] = {}
        for part, file in zip(parts, files, strict=True):
            if odd := part.tensors.keys() ^ parts[0].tensors.keys():
                raise CheckpointError(
                    f"{file}: tensor {min(odd)!r} is in only one of this file and {files[0].name}; download the "
                    "model again",
                    path=file,
                )
        for name, first in parts[0].tensors.items():
            infos = [part.tensors[name] for part in parts]
            axis = axes[name]
            fixed = [(i.dtype, i.shape if axis is None else i.shape[:axis] + i.shape[axis + 1 :]) for i in infos]
            if len(set(fixed)) > 1:
                raise CheckpointError(
                    f"{files[0].parent}: the parts of tensor {name!r} do not fit together: "
                    f"{[list(i.shape) for i in infos]}"
                )
            shape = list(first.shape)
            if axis is not None:
                shape[axis] = sum(info.shape[axis] for info in infos)
            self.tensors[name] = TensorInfo(tuple(shape), first.dtype, any(info.computed for info in infos))

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        axis = self._axes[name]
        if axis is None:
            return self._parts[0].read(name, start, stop, out)
        if axis == 1:
            return self._read_columns(name, start, stop, out)
        begin = 0
        for part in self._parts:
            end = begin + part.tensors[name].numel
            low, high = max(start, begin), min(stop, end)
            if low < high:
                part.read(name, low - begin, high - begin, out[low - start : high - start])
            begin = end

    def _read_columns(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        if start == stop:
            return
        width = self.tensors[name].shape[1]
        first, last = start // width, -(-stop // width)
        whole = np.empty((last - first, width), out.dtype)
        begin = 0
        for part in self._parts:
            columns = part.tensors[name].shape[1]
            block = np.empty((last - first) * columns, out.dtype)
            part.read(name, first * columns, last * columns, block)
            whole[:, begin : begin + columns] = block.reshape(last - first, columns)
            begin += columns
        out[:] = whole.reshape(-1)[start - first * width : stop - first * width]
