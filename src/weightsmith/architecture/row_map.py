"""Where a canonical tensor lies in foreign ones: every layout operation on rows is a list of row numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from weightsmith.checkpoint.tensor import Checkpoint, TensorInfo, convert, read_transposed

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
            self.tensors[name] = TensorInfo(first.shape[::-1] if row_map.transposed else shape, first.dtype, computed)

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
        wanted = np.arange(first, last) if row_map.rows is None else row_map.rows[first:last]
        ends = _ends(self._source, row_map)
        if wanted[-1] - wanted[0] == len(wanted) - 1 and (np.diff(wanted) == 1).all():
            return self._read_straight(row_map, ends, width, int(wanted[0]) - first, start, stop, out)
        gathered = np.empty((len(wanted), width), out.dtype)
        for source, begin, places, rows in _runs(wanted, ends):
            count = int(rows.max()) + 1
            read = np.empty(count * width, out.dtype)
            self._source.read(row_map.sources[source], begin * width, (begin + count) * width, read)
            gathered[places] = read.reshape(count, width)[rows]
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


def _ends(source: Checkpoint, row_map: RowMap) -> list[int]:
    """Number of rows up to and with each source."""
    shapes = [source.tensors[name].shape for name in row_map.sources]
    return np.cumsum([shape[0] if shape else 1 for shape in shapes]).tolist()


def _runs(wanted: np.ndarray, ends: list[int]) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Reads that cover `wanted`: (source, its first row, places in `wanted`, rows relative to the first row)."""
    order = np.argsort(wanted, kind="stable")
    sorted_rows = wanted[order]
    source = np.searchsorted(ends, sorted_rows, side="right")
    cuts = np.flatnonzero((np.diff(sorted_rows) > _GAP) | (np.diff(source) > 0)) + 1
    for places, rows, which in zip(
        np.split(order, cuts), np.split(sorted_rows, cuts), np.split(source, cuts), strict=True
    ):
        begin = int(rows[0])
        number = int(which[0])
        yield number, begin - (ends[number - 1] if number else 0), places, rows - begin


def invert(maps: Mapping[str, RowMap], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, RowMap]:
    """The maps that make the foreign tensors from the canonical ones. `shapes` are those of the foreign tensors.

    Raises ValueError naming a foreign tensor of which a row is used twice or never: then there is no way back.
    """
    users: dict[str, list[str]] = {name: [] for name in shapes}
    for canonical, row_map in maps.items():
        for name in row_map.sources:
            users[name].append(canonical)
    back: dict[str, RowMap] = {}
    for name, canonicals in users.items():
        only = maps[canonicals[0]]
        if len(canonicals) == 1 and only.rows is None and only.sources == (name,):
            back[name] = RowMap((canonicals[0],), None, only.transposed, -only.add)
            continue
        count = shapes[name][0]
        rows, offset = np.full(count, -1), 0
        for canonical in canonicals:
            row_map = maps[canonical]
            ends = np.cumsum([shapes[s][0] for s in row_map.sources])
            mine = np.arange(ends[-1]) if row_map.rows is None else row_map.rows
            index = row_map.sources.index(name)
            low, high = (0 if index == 0 else ends[index - 1]), ends[index]
            here = np.flatnonzero((mine >= low) & (mine < high))
            if (rows[mine[here] - low] >= 0).any():
                raise ValueError(f"a row of {name!r} is used twice")
            rows[mine[here] - low] = offset + here
            offset += len(mine)
        if (rows < 0).any():
            raise ValueError(f"a row of {name!r} is used by no tensor")
        back[name] = RowMap(tuple(canonicals), rows)
    return back
