"""The inverse of row maps: foreign tensors made from canonical ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from weightsmith.checkpoint.views.row_mapped import RowMap


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
            source_rows = np.arange(ends[-1]) if row_map.rows is None else row_map.rows
            index = row_map.sources.index(name)
            low, high = (0 if index == 0 else ends[index - 1]), ends[index]
            positions = np.flatnonzero((source_rows >= low) & (source_rows < high))
            if (rows[source_rows[positions] - low] >= 0).any():
                raise ValueError(f"a row of {name!r} is used twice")
            rows[source_rows[positions] - low] = offset + positions
            offset += len(source_rows)
        if (rows < 0).any():
            raise ValueError(f"a row of {name!r} is used by no tensor")
        back[name] = RowMap(tuple(canonicals), rows)
    return back
