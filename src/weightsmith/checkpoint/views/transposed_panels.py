"""Columns of a stored matrix as rows, a panel of some MB at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from weightsmith.checkpoint.checkpoint import Checkpoint

_PANEL_BYTES = 4 << 20
_STRIP_BYTES = 4 << 20  # whole rows that are read at once: columns alone would take a read for each row
_FEW_ROWS = 64  # that are transposed at once: they stay in the cache


def transpose(matrix: np.ndarray, out: np.ndarray) -> None:
    """`out`, [columns, rows] = `matrix`, [rows, columns]."""
    items = f"u{matrix.itemsize}"  # numpy copies those fastest
    matrix, out = matrix.view(items), out.view(items)
    for first in range(0, len(matrix), _FEW_ROWS):
        rows = matrix[first : first + _FEW_ROWS]
        out[:, first : first + len(rows)] = rows.T


class LastPanel(threading.local):
    """The panel that a thread has read last; the blocks of a tensor ask for its columns in their order."""

    def __init__(self) -> None:
        self.key: tuple[str, int, int] | None = None
        self.panel = np.empty((0, 0), np.uint8)


@dataclass(frozen=True)
class TransposedPanels:
    """The tensor `name` as matrices of `rows` x `columns` items, transposed. `last`: shared by tensors of one role, so
    that a thread keeps one panel for all of them. `direct`: a read of some columns of a row costs little, so that no
    others are read."""

    source: Checkpoint
    name: str
    rows: int
    columns: int
    last: LastPanel
    panel_bytes: int | None = None
    direct: bool = False

    @property
    def dtype(self) -> np.dtype:
        """That of the items."""
        return self.source.tensors[self.name].read_dtype

    @property
    def panel_columns(self) -> int:
        """Columns in a panel; the last one may have fewer."""
        return max(1, min(self.columns, (self.panel_bytes or _PANEL_BYTES) // max(1, self.rows * self.dtype.itemsize)))

    def read(self, matrix: int, first: int, last: int) -> np.ndarray:
        """Items [last - first, rows]: the columns `first` to `last` of one matrix."""
        size = self.panel_columns
        number, begin = divmod(first, size)
        if last <= (number + 1) * size:
            return self._panel(matrix, number)[begin : begin + last - first]
        cuts = [first, *range((number + 1) * size, last, size), last]
        return np.concatenate([self.read(matrix, *pair) for pair in pairwise(cuts)])

    def _panel(self, matrix: int, number: int) -> np.ndarray:
        key = (self.name, matrix, number)
        if self.last.key != key:
            self.last.panel = self._read_panel(matrix, number)
            self.last.key = key
        return self.last.panel

    def _read_panel(self, matrix: int, number: int) -> np.ndarray:
        first = number * self.panel_columns
        last = min(self.columns, first + self.panel_columns)
        panel = np.empty((last - first, self.rows), self.dtype)
        some = self.direct and last - first < self.columns
        row_columns = last - first if some else self.columns
        step = _FEW_ROWS if some else max(1, _STRIP_BYTES // (row_columns * panel.itemsize))
        strip = np.empty((min(step, self.rows), row_columns), panel.dtype)
        for begin in range(0, self.rows, step):
            rows = strip[: self.rows - begin]
            start = (matrix * self.rows + begin) * self.columns
            if some:
                for row in rows:
                    self.source.read(self.name, start + first, start + last, row)
                    start += self.columns
            else:
                self.source.read(self.name, start, start + rows.size, rows.reshape(-1))
                rows = rows[:, first:last]
            transpose(rows, panel[:, begin : begin + len(rows)])
        return panel
