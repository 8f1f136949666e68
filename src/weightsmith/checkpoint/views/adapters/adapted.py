"""A checkpoint with an adapter's changes made to it, for the rows asked for."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weightsmith.checkpoint.checkpoint import Checkpoint, TensorInfo, rows_together
from weightsmith.checkpoint.dtypes import convert
from weightsmith.checkpoint.views.adapters.changes import AddLowRank, Change, Replace
from weightsmith.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_BLOCK = 1 << 20  # elements read at once where a change needs the whole weight
_KEPT = 1 << 21  # elements that a thread keeps of a base, at most


class _LastRows(threading.local):
    """What a thread read last of a base: adapters on one base are read one after the other, block by block."""

    of: tuple[weakref.ref[Checkpoint], str, int, int] | None = None
    rows = np.empty((0, 0), np.float32)

    def read(self, base: Checkpoint, name: str, first: int, last: int, rows: np.ndarray) -> None:
        """Rows `first` to `last` of a tensor into `rows`, float32 [n, width]."""
        if self.of and self.of[0]() is base and self.of[1:] == (name, first, last):
            rows[...] = self.rows
            return
        width = rows.shape[1]
        base.read(name, first * width, last * width, rows.reshape(-1))
        if rows.size <= _KEPT:
            self.of, self.rows = (weakref.ref(base), name, first, last), rows.copy()


_last_rows = _LastRows()


class AdaptedCheckpoint:
    """`base` with `changes`: name of a weight -> what is done to it, in order. `origins`: weights that the base does
    not have -> the one that they are before the changes (an output matrix that was tied). Raises CheckpointError, which
    names `adapter`, where a change does not fit."""

    def __init__(
        self,
        base: Checkpoint,
        changes: Mapping[str, Sequence[Change]],
        adapter: Path,
        origins: Mapping[str, str] | None = None,
    ) -> None:
        self._base, self._changes, self._origins = base, changes, dict(origins or {})
        self.tensors: dict[str, TensorInfo] = dict(base.tensors)
        for name, origin in self._origins.items():
            self.tensors[name] = base.tensors[origin]
        for name, made in changes.items():
            first = made[0]
            if name not in self.tensors:
                if not isinstance(first, Replace):
                    raise CheckpointError(
                        f"{adapter}: adapts {name!r}, which the base model does not have", path=adapter
                    )
                self.tensors[name] = first.info
            info = self.tensors[name]
            shape: tuple[int, ...] = info.shape
            for change in made:
                changed = change.shape(shape)
                if changed is None:
                    raise CheckpointError(
                        f"{adapter}: what it adds to {name!r} does not fit: the base's weight is {list(shape)}, "
                        f"{change}"
                        "; it was made for another model",
                        path=adapter,
                    )
                shape = changed
            self.tensors[name] = TensorInfo(shape, info.dtype, info.computed, info.decoded)

    def unchanged(self, name: str) -> Checkpoint | None:
        """The base, where the adapter leaves a tensor as it is."""
        return None if name in self._changes or name in self._origins else self._base

    def low_rank(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """float32 (b [rows, rank], a [rank, width]) where the weight is that of the innermost base plus b @ a; None
        where it is something else."""
        import torch

        changes, shape = self._changes.get(name, ()), self.tensors[name].shape
        if len(shape) != 2 or name in self._origins or not all(isinstance(change, AddLowRank) for change in changes):
            return None
        nothing = torch.zeros((shape[0], 0)), torch.zeros((0, shape[1]))
        inner = self._base.low_rank(name) if isinstance(self._base, AdaptedCheckpoint) else nothing
        if inner is None:
            return None
        pairs = [inner, *((change.b, change.a) for change in changes if isinstance(change, AddLowRank))]
        return torch.cat([b for b, _ in pairs], 1), torch.cat([a for _, a in pairs])

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        import torch

        changes = self._changes.get(name, ())
        if not changes:
            return self._base.read(self._origins.get(name, name), start, stop, out)
        if start == stop:
            return
        width = self._width(name)
        together = rows_together(width)
        first = start // width // together * together
        last = min(self.tensors[name].numel // width, -(-stop // (width * together)) * together)
        in_place = out.dtype == np.float32 and (start, stop) == (first * width, last * width)
        rows = torch.from_numpy(out.reshape(-1, width)) if in_place else torch.empty((last - first, width))
        if not isinstance(changes[0], Replace):
            self._read_base(name, first, last, rows.numpy())
        for part, begin in zip(rows.split(together), range(first, last, together), strict=True):
            made = part
            for change in changes:
                made = change.apply(made, begin, lambda: self._whole(name))
            if made.data_ptr() != part.data_ptr():
                part.copy_(made)
        if not in_place:
            convert(rows.reshape(-1)[start - first * width : stop - first * width].numpy(), out)

    def _width(self, name: str) -> int:
        shape = self.tensors[name].shape
        return shape[-1] if len(shape) > 1 else 1

    def _read_base(self, name: str, first: int, last: int, rows: np.ndarray) -> None:
        _last_rows.read(self._base, self._origins.get(name, name), first, last, rows)

    def _whole(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        info, width = self.tensors[name], self._width(name)
        count = info.numel // width
        step = max(1, _BLOCK // width)
        for first in range(0, count, step):
            rows = np.empty((min(step, count - first), width), np.float32)
            self._read_base(name, first, first + len(rows), rows)
            yield first, rows
