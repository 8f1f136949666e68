"""Where the rows of a canonical tensor lie in foreign ones: every layout operation on rows is a list of row numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from weightsmith.checkpoint.tensor import Checkpoint, TensorInfo

_GAP = 2  # rows that are read in vain rather than starting another read


@dataclass(frozen=True)
class RowMap:
    """Row r of a canonical tensor is row `rows[r]` of `sources`, laid one under the other; None: all, in their order."""

    sources: tuple[str, ...]
    rows: np.ndarray | None = None


class RowMappedCheckpoint:
    """A checkpoint under canonical names. Only the rows asked for are read."""

    def __init__(self, source: Checkpoint, maps: Mapping[str, RowMap]) -> None:
        self._source, self._maps = source, maps
        self.tensors: dict[str, TensorInfo] = {}
        for name, row_map in maps.items():
            first = source.tensors[row_map.sources[0]]
            count = _ends(source, row_map)[-1] if row_map.rows is None else len(row_map.rows)
            shape = first.shape if not first.shape else (count, *first.shape[1:])
            self.tensors[name] = TensorInfo(shape, first.dtype)

    def read(self, name: str, start: int, stop: int, out: torch.Tensor) -> None:
        row_map, info = self._maps[name], self.tensors[name]
        if row_map.rows is None and len(row_map.sources) == 1:
            return self._source.read(row_map.sources[0], start, stop, out)
        if start == stop:
            return
        width = info.numel // info.shape[0]
        first, last = start // width, -(-stop // width)
        wanted = np.arange(first, last) if row_map.rows is None else row_map.rows[first:last]
        gathered = torch.empty(len(wanted), width, dtype=info.torch_dtype)
        for source, begin, places, rows in _runs(wanted, _ends(self._source, row_map)):
            count = int(rows.max()) + 1
            read = torch.empty(count * width, dtype=info.torch_dtype)
            self._source.read(row_map.sources[source], begin * width, (begin + count) * width, read)
            gathered[torch.from_numpy(places)] = read.reshape(count, width)[torch.from_numpy(rows)]
        out.copy_(gathered.reshape(-1)[start - first * width : stop - first * width])


def _ends(source: Checkpoint, row_map: RowMap) -> list[int]:
    """Number of rows up to and with each source."""
    shapes = [source.tensors[name].shape for name in row_map.sources]
    return np.cumsum([shape[0] if shape else 1 for shape in shapes]).tolist()


def _runs(wanted: np.ndarray, ends: list[int]):
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
        if len(canonicals) == 1 and maps[canonicals[0]] == RowMap((name,)):
            back[name] = RowMap((canonicals[0],))
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
