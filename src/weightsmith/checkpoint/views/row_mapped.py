"""Where a canonical tensor lies in foreign ones: every layout operation on rows is a list of row numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from weightsmith.checkpoint.checkpoint import Checkpoint, TensorInfo, natural_key, read_transposed
from weightsmith.checkpoint.dtypes import convert

_GAP = 2  # rows that are read in vain rather than starting another read


@dataclass(frozen=True)
class RowMap:
    """Row r of a canonical tensor is row `rows[r]` of `sources`, laid one under the other; None: all, in their order.

    `transposed`: the one source is a matrix whose columns are the rows. `add`: a number added to every element.
    """

    sources: tuple[str, ...]
    rows: np.ndarray | None = None
    transposed: bool = False
    add: float = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether the tensor is its one source as it is."""
        return self.rows is None and len(self.sources) == 1 and not self.transposed and not self.add


class RowMappedCheckpoint:
    """A checkpoint under canonical names. Only the rows asked for are read."""

    def __init__(self, source: Checkpoint, maps: Mapping[str, RowMap]) -> None:
        self._source, self._maps = source, maps
        self.tensors: dict[str, TensorInfo] = {}
        for name, row_map in maps.items():
            first = source.tensors[row_map.sources[0]]
            count = _ends(source, row_map)[-1] if row_map.rows is None else len(row_map.rows)
            shape = first.shape if not first.shape else (count, *first.shape[1:])
            computed = any(source.tensors[s].computed for s in row_map.sources)
            shape = first.shape[::-1] if row_map.transposed else shape
            self.tensors[name] = replace(first, shape=shape, computed=computed)

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        row_map, info = self._maps[name], self.tensors[name]
        if row_map.is_plain:
            return self._source.read(row_map.sources[0], start, stop, out)
        if start == stop:
            return
        if row_map.add:  # in the tensor's own precision, whatever `out` has
            plain = np.empty(stop - start, info.numpy_dtype)
            self._read_rows(replace(row_map, add=0.0), info, start, stop, plain)
            plain += plain.dtype.type(row_map.add)
            convert(plain, out)
            return
        self._read_rows(row_map, info, start, stop, out)

    def _read_rows(self, row_map: RowMap, info: TensorInfo, start: int, stop: int, out: np.ndarray) -> None:
        if row_map.transposed:
            source = row_map.sources[0]
            stored = self._source.tensors[source].shape
            return read_transposed(partial(self._source.read, source), (stored[0], stored[1]), start, stop, out)
        width = info.numel // info.shape[0]
        first, last = start // width, -(-stop // width)
        source_rows = np.arange(first, last) if row_map.rows is None else row_map.rows[first:last]
        ends = _ends(self._source, row_map)
        if source_rows[-1] - source_rows[0] == len(source_rows) - 1 and (np.diff(source_rows) == 1).all():
            return self._read_straight(row_map, ends, width, int(source_rows[0]) - first, start, stop, out)
        gathered = np.empty((len(source_rows), width), out.dtype)
        for source, begin, positions, rows in _runs(source_rows, ends):
            count = int(rows.max()) + 1
            read = np.empty(count * width, out.dtype)
            self._source.read(row_map.sources[source], begin * width, (begin + count) * width, read)
            gathered[positions] = read.reshape(count, width)[rows]
        out[:] = gathered.reshape(-1)[start - first * width : stop - first * width]

    def _read_straight(
        self, row_map: RowMap, ends: list[int], width: int, shift: int, start: int, stop: int, out: np.ndarray
    ) -> None:
        """Rows that follow each other in the sources go into `out` with no copy between."""
        low, high = start + shift * width, stop + shift * width
        begin = 0
        for name, end in zip(row_map.sources, ends, strict=True):
            first, last = max(low, begin * width), min(high, end * width)
            if first < last:
                self._source.read(name, first - begin * width, last - begin * width, out[first - low : last - low])
            begin = end


def ordered(maps: Mapping[str, RowMap]) -> dict[str, RowMap]:
    """The tensors by name, layer 2 before layer 10."""
    return dict(sorted(maps.items(), key=lambda item: natural_key(item[0])))


def _ends(source: Checkpoint, row_map: RowMap) -> list[int]:
    """Number of rows up to and with each source."""
    shapes = [source.tensors[name].shape for name in row_map.sources]
    return np.cumsum([shape[0] if shape else 1 for shape in shapes]).tolist()


def _runs(source_rows: np.ndarray, ends: list[int]) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Reads that cover `source_rows`: (source, its first row, places in `source_rows`, rows relative to the first
    row)."""
    sorted_positions = np.argsort(source_rows, kind="stable")
    sorted_rows = source_rows[sorted_positions]
    source = np.searchsorted(ends, sorted_rows, side="right")
    cuts = np.flatnonzero((np.diff(sorted_rows) > _GAP) | (np.diff(source) > 0)) + 1
    for positions, rows, sources in zip(
        np.split(sorted_positions, cuts), np.split(sorted_rows, cuts), np.split(source, cuts), strict=True
    ):
        begin = int(rows[0])
        number = int(sources[0])
        yield number, begin - (ends[number - 1] if number else 0), positions, rows - begin
