"""Codes that lie along the rows of a matrix: FP8, int8, FP4 and packed integers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from weightsmith.blocks.dequantize import decode_rows
from weightsmith.checkpoint.checkpoint import Checkpoint, by_matrix
from weightsmith.checkpoint.views.quantized.packing.scale_grid import ScaleGrid

NO_GROUPS = np.empty(0, np.int32)


class Zeros(Protocol):
    """Zero points, in the grid of the scales."""

    def read(self, matrix: int, first: int, last: int) -> np.ndarray: ...


@dataclass(frozen=True)
class PackedRows:
    """A weight of `shape` whose codes of `bits` lie in the tensor `packed`, row by row. `values`: float32 [2 ** bits],
    what the codes mean; `group_of`: the tensor with the group of each column, where groups are not in their order."""

    source: Checkpoint
    shape: tuple[int, ...]
    packed: str
    bits: int
    values: np.ndarray = field(repr=False)
    scales: ScaleGrid
    zeros: Zeros | None = None
    group_of: str | None = None
    high_first: bool = False

    @property
    def width(self) -> int:
        return self.shape[-1]

    def decode(self, first: int, last: int, out: np.ndarray) -> None:
        rows = self.shape[-2] if len(self.shape) > 1 else 1
        for matrix, begin, end, start in by_matrix(first, last, rows):
            self._decode_matrix(matrix, begin, end, out[start : start + end - begin])

    def _decode_matrix(self, matrix: int, begin: int, end: int, out: np.ndarray) -> None:
        info = self.source.tensors[self.packed]
        rows = self.shape[-2] if len(self.shape) > 1 else 1
        items = info.shape[-1]  # of the packed tensor, in a row
        packed = np.empty((end - begin) * items, info.numpy_dtype)
        start = (matrix * rows + begin) * items
        self.source.read(self.packed, start, start + len(packed), packed)
        down, across = self.scales.tile
        scale_rows = begin // down, -(-end // down)
        scales = self.scales.read(matrix, *scale_rows)
        zeros = self.zeros.read(matrix, *scale_rows) if self.zeros else np.zeros_like(scales)
        group_of = NO_GROUPS
        if self.group_of:
            group_of = np.empty(self.width, np.int32)
            self.source.read(self.group_of, 0, self.width, group_of)
        bytes_ = packed.view(np.uint8).reshape(end - begin, -1)
        decode_rows(bytes_, self.bits, self.high_first, self.values, scales, zeros, begin, down, across, group_of, out)


@dataclass(frozen=True)
class PackedZeros:
    """Zero points of `bits` packed into 32-bit words along their rows (compressed-tensors)."""

    source: Checkpoint
    name: str
    rows: int
    columns: int
    bits: int
    offset: int  # what is taken from a code

    def read(self, matrix: int, first: int, last: int) -> np.ndarray:
        per_word = 32 // self.bits
        words_down = -(-self.rows // per_word)
        begin, end = first // per_word, -(-last // per_word)
        words = np.empty((end - begin) * self.columns, np.int32)
        start = (matrix * words_down + begin) * self.columns
        self.source.read(self.name, start, start + len(words), words)
        shifts = self.bits * np.arange(per_word, dtype=np.uint32)
        codes = (words.view(np.uint32).reshape(-1, 1, self.columns) >> shifts[:, None]) & ((1 << self.bits) - 1)
        zeros = codes.reshape(-1, self.columns)[first - begin * per_word : last - begin * per_word]
        return zeros.astype(np.float32) - self.offset
