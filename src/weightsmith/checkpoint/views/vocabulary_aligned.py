"""A checkpoint whose embedding and output matrix have the rows of another vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from weightsmith.checkpoint.checkpoint import Checkpoint, TensorInfo
from weightsmith.checkpoint.dtypes import convert
from weightsmith.errors import PlanError

if TYPE_CHECKING:
    import torch

Row = tuple[int, int]  # (which source, which of its rows)
_MEAN_ELEMENTS = 1 << 20  # of the embedding, read at once for its mean row


@dataclass
class VocabularyAligned:
    """Source `number` of `sources`, its tensors over the vocabulary with one row for each token of the output.

    `rows`: int64 [output rows], this source's row for each, or -1 where it has none; `fallback`: the rows of sources
    that such a row is the mean of (none: zeros); `padding`: output rows without a token, which get the mean of all
    others (https://nlp.stanford.edu/~johnhew/vocab-expansion.html). `names[k]` gives the name that each tensor over the
    vocabulary has in source k, None where it has none.
    """

    number: int
    sources: Sequence[Checkpoint]
    names: Sequence[Mapping[str, str | None]]
    rows: torch.Tensor
    fallback: Mapping[int, tuple[Row, ...]]
    padding: range
    tensors: dict[str, TensorInfo] = field(init=False)

    def __post_init__(self) -> None:
        self.tensors = dict(self.sources[self.number].tensors)
        for name, info in self.tensors.items():
            if name in self.names[self.number]:
                self.tensors[name] = replace(info, shape=(len(self.rows), *info.shape[1:]), computed=True)
        self._mean: dict[str, torch.Tensor] = {}

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        import torch

        source = self.sources[self.number]
        if name not in self.names[self.number]:
            return source.read(name, start, stop, out)
        if start == stop:
            return
        info = self.tensors[name]
        width = info.numel // info.shape[0]
        first, last = start // width, -(-stop // width)
        values = torch.zeros(last - first, width, dtype=torch.float64 if info.dtype == "F64" else torch.float32)
        source_rows = self.rows[first:last].tolist()
        begin = 0
        while begin < len(source_rows):  # runs of rows that follow each other are read at once
            end = begin + 1
            while end < len(source_rows) and source_rows[begin] >= 0 and source_rows[end] == source_rows[end - 1] + 1:
                end += 1
            if source_rows[begin] >= 0:
                row = source_rows[begin]
                source.read(name, row * width, (row + end - begin) * width, values[begin:end].view(-1).numpy())
            else:
                values[begin] = self._fallback_row(name, first + begin, width)
            begin = end
        convert(values.view(-1)[start - first * width : stop - first * width].numpy(), out)

    def _fallback_row(self, name: str, row: int, width: int) -> torch.Tensor:
        """The embedding of a token that this source does not have: a mean of rows of sources that do."""
        import torch

        if row in self.padding:
            if name not in self._mean:
                self._mean[name] = self._mean_row(name, width)
            return self._mean[name]
        total = torch.zeros(width)
        rows = self.fallback.get(row, ())
        for number, other_row in rows:
            other_name = self.names[number].get(name)
            if other_name is None:
                raise PlanError(
                    f"tensor {name!r} is needed for tokens that other models lack, but one model does not have it"
                )
            values = torch.empty(width)
            self.sources[number].read(other_name, other_row * width, (other_row + 1) * width, values.numpy())
            total += values
        return total / len(rows) if rows else total

    def _mean_row(self, name: str, width: int) -> torch.Tensor:
        import torch

        total = torch.zeros(width, dtype=torch.float64)
        step = max(1, _MEAN_ELEMENTS // width)
        for first in range(0, self.padding.start, step):
            last = min(first + step, self.padding.start)
            values = torch.empty((last - first) * width)
            self.read(name, first * width, last * width, values.numpy())
            total += values.view(-1, width).sum(0, dtype=torch.float64)
        return (total / max(1, self.padding.start)).float()
