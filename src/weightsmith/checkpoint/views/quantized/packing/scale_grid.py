"""Scales and zero points: one for each tile of a matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from weightsmith.checkpoint.checkpoint import Checkpoint
from weightsmith.checkpoint.views.quantized.packing.code_values import as_float32
from weightsmith.errors import CheckpointError


@dataclass(frozen=True)
class ScaleGrid:
    """The tensor `name` as a matrix of `rows` x `columns` scales for each matrix of a weight, a scale for each
    `tile` (rows, columns) of the weight's elements. `shared`: all matrices have the same ones."""

    source: Checkpoint
    name: str
    rows: int
    columns: int
    tile: tuple[int, int]
    shared: bool = False
    exponents: bool = False  # bytes are exponents of two
    divided_by: str | None = None  # a number for the whole matrix
    times: str | None = None  # likewise

    def read(self, matrix: int, first: int, last: int) -> np.ndarray:
        """float32 [last - first, columns]: scale rows of one matrix."""
        info = self.source.tensors[self.name]
        begin = (0 if self.shared else matrix * self.rows) + first
        stored = np.empty((last - first) * self.columns, info.numpy_dtype)
        self.source.read(self.name, begin * self.columns, (begin + last - first) * self.columns, stored)
        scales = as_float32(stored, info.dtype, exponents=self.exponents)
        if self.divided_by:
            scales = scales / self._whole(self.divided_by, matrix)
        if self.times:
            scales = scales * self._whole(self.times, matrix)
        return scales.reshape(-1, self.columns)

    def _whole(self, name: str, matrix: int) -> np.float32:
        number, place = np.empty(1, np.float32), 0 if self.source.tensors[name].numel == 1 else matrix
        self.source.read(name, place, place + 1, number)
        return number[0]


def scale_grid(
    source: Checkpoint, path: Path, weight: str, shape: tuple[int, ...], name: str, tile: tuple[int, int] | None
) -> ScaleGrid:
    """The grid that the scales `name` form over the weight `weight` of `shape`: one for all, one for each row, or tiles
    of `tile` (the last ones may be partial), or tiles that divide the weight evenly. Raises CheckpointError where none
    of these fits: a wrong grid would scale every number wrongly."""
    *outer, rows, columns = shape if len(shape) > 1 else (1, *shape)
    matrices, scale_shape = math.prod(outer), source.tensors[name].shape
    grid = ScaleGrid(source, name, 1, 1, (rows, columns), exponents=source.tensors[name].dtype in ("U8", "F8_E8M0"))
    count = math.prod(scale_shape)
    if count == 1:
        return replace(grid, shared=True)
    if outer and count == matrices:
        return grid
    if count == matrices * rows and scale_shape[-1] in (1, rows) and scale_shape[-2:] != (1, rows):
        return replace(grid, rows=rows, tile=(1, columns))
    if len(scale_shape) == len(outer) + 2 and list(scale_shape[:-2]) == outer:
        down, across = scale_shape[-2:]
        if tile and (-(-rows // tile[0]), -(-columns // tile[1])) == (down, across):
            return replace(grid, rows=down, columns=across, tile=tile)
        if down and across and rows % down == 0 and columns % across == 0:
            return replace(grid, rows=down, columns=across, tile=(rows // down, columns // across))
    blocks = f" with blocks of {tile[0]} x {tile[1]}" if tile else ""
    raise CheckpointError(
        f"{path}: the scales {name!r} are {list(scale_shape)}, which does not fit the weight {weight!r} of "
        f"{list(shape)}{blocks}; one of them is not of this model",
        path=path,
    )
