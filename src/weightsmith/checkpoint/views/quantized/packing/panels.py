"""Columns of a stored matrix as rows, a panel of some MB at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from weightsmith.checkpoint.checkpoint import Checkpoint

_PANEL_BYTES = 4 << 20
_STRIP_BYTES = 4 << 20  # whole rows that are read at once: columns alone would take a read for each row


class LastPanel(threading.local):
    """The panel that a thread has read last; the blocks of a tensor ask for its columns in their order."""

    def __init__(self) -> None:
        self.key: tuple[str, int, int] | None = None
        self.panel = np.empty((0, 0), np.uint8)


@dataclass(frozen=True)
class TransposedPanels:
    """The tensor `name` as matrices of `rows` x `columns` items, transposed. `last`: shared by tensors of one role, so
    that a thread keeps one panel for all of them."""

    source: Checkpoint
    name: str
    rows: int
    columns: int
    last: LastPanel

    @property
    def panel_columns(self) -> int:
        """Columns in a panel; the last one may have fewer."""
        item = self.source.tensors[self.name].numpy_dtype.itemsize
        return max(1, min(self.columns, _PANEL_BYTES // max(1, self.rows * item)))

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
        dtype = self.source.tensors[self.name].numpy_dtype
        panel = np.empty((last - first, self.rows), dtype)
        step = max(1, _STRIP_BYTES // (self.columns * dtype.itemsize))
        strip = np.empty(min(step, self.rows) * self.columns, dtype)
        for begin in range(0, self.rows, step):
            end = min(self.rows, begin + step)
            rows = strip[: (end - begin) * self.columns]
            start = (matrix * self.rows + begin) * self.columns
            self.source.read(self.name, start, start + len(rows), rows)
            panel[:, begin:end] = rows.reshape(-1, self.columns)[:, first:last].T
        return panel
