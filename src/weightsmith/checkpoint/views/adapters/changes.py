"""What an adapter does to one weight, row by row. Rows are those of the stored weight: [out, in] of a linear layer,
[in, out] of GPT-2's Conv1D, [vocabulary, size] of an embedding, all matrices of experts under each other.

LoRA: https://arxiv.org/abs/2106.09685. DoRA: https://arxiv.org/abs/2402.09353. IA3: https://arxiv.org/abs/2205.05638.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from weightsmith.checkpoint.checkpoint import Checkpoint, TensorInfo

if TYPE_CHECKING:
    import torch

WholeRows = Callable[[], Iterator[tuple[int, np.ndarray]]]  # the weight before the change, in blocks: (first row, rows)


class Change(Protocol):
    """A change to rows of a weight."""

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...] | None:
        """The weight's shape afterwards; None: it does not fit."""
        ...

    def apply(self, rows: torch.Tensor, first: int, whole: WholeRows) -> torch.Tensor:
        """float32 [n, width], rows from `first` on, changed; may be done in place."""
        ...


@dataclass(frozen=True)
class AddLowRank:
    """weight + b @ a. float32, b [rows, rank] with the scale in it, a [rank, width]."""

    b: torch.Tensor
    a: torch.Tensor

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...] | None:
        fits = self.a.ndim == 2 and (self.b.shape[0], self.a.shape[1]) == before and len(self.a) == self.b.shape[1]
        return before if fits else None

    def apply(self, rows: torch.Tensor, first: int, whole: WholeRows) -> torch.Tensor:
        rows += self.b[first : first + len(rows)] @ self.a
        return rows


@dataclass(frozen=True)
class AddLowRankExperts:
    """weight + b[e] @ a[e] of each expert e. float32, b [experts, rows, rank] with the scale in it, a [experts, rank,
    width]."""

    b: torch.Tensor
    a: torch.Tensor

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...] | None:
        return before if (self.b.shape[0], self.b.shape[1], self.a.shape[2]) == before else None

    def apply(self, rows: torch.Tensor, first: int, whole: WholeRows) -> torch.Tensor:
        height, start = self.b.shape[1], 0
        while start < len(rows):
            expert, begin = divmod(first + start, height)
            count = min(height - begin, len(rows) - start)
            rows[start : start + count] += self.b[expert, begin : begin + count] @ self.a[expert]
            start += count
        return rows


@dataclass(frozen=True)
class AddMatrix:
    """weight + a matrix, made when it is needed: float32 [rows, width]."""

    rows_of: Callable[[int, int], torch.Tensor] = field(repr=False)
    size: tuple[int, int]

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...] | None:
        return before if before == self.size else None

    def apply(self, rows: torch.Tensor, first: int, whole: WholeRows) -> torch.Tensor:
        rows += self.rows_of(first, first + len(rows))
        return rows


@dataclass(frozen=True)
class Dora:
    """magnitude * (weight + b @ a) / its length; lengths and `magnitude` (float32) are of rows, or with `by_column` of
    columns (Conv1D, embeddings)."""

    low_rank: AddLowRank
    magnitude: torch.Tensor
    by_column: bool
    _factors: list[torch.Tensor] = field(default_factory=list, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...] | None:
        fits = self.low_rank.shape(before) and len(self.magnitude) == before[1 if self.by_column else 0]
        return before if fits else None

    def apply(self, rows: torch.Tensor, first: int, whole: WholeRows) -> torch.Tensor:
        import torch

        rows = self.low_rank.apply(rows, first, whole)
        if not self.by_column:
            lengths = torch.linalg.norm(rows, dim=1)
            return rows * (self.magnitude[first : first + len(rows)] / lengths)[:, None]
        with self._lock:
            if not self._factors:
                squares = torch.zeros(len(self.magnitude), dtype=torch.float64)
                for begin, block in whole():
                    changed = self.low_rank.apply(torch.from_numpy(block), begin, whole)
                    squares += changed.double().square().sum(0)
                self._factors.append(self.magnitude / squares.sqrt().float())
        return rows * self._factors[0]


@dataclass(frozen=True)
class Replace:
    """The whole tensor, as the adapter stores it."""

    source: Checkpoint
    name: str

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...] | None:
        return self.source.tensors[self.name].shape

    @property
    def info(self) -> TensorInfo:
        return self.source.tensors[self.name]

    def apply(self, rows: torch.Tensor, first: int, whole: WholeRows) -> torch.Tensor:
        width = rows.shape[1]
        self.source.read(self.name, first * width, (first + len(rows)) * width, rows.reshape(-1).numpy())
        return rows


@dataclass(frozen=True)
class ReplaceRows:
    """Rows `indices` (int64, ascending) are those of `values`, float32 [n, width]."""

    indices: torch.Tensor
    values: torch.Tensor

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...] | None:
        fits = len(before) == 2 and self.values.shape[1] == before[1] and int(self.indices.max()) < before[0]
        return before if fits else None

    def apply(self, rows: torch.Tensor, first: int, whole: WholeRows) -> torch.Tensor:
        inside = (self.indices >= first) & (self.indices < first + len(rows))
        rows[self.indices[inside] - first] = self.values[inside]
        return rows


@dataclass(frozen=True)
class AddVector:
    """A bias + `vector`, float32 [n]."""

    vector: torch.Tensor

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...] | None:
        return before if tuple(self.vector.shape) == before else None

    def apply(self, rows: torch.Tensor, first: int, whole: WholeRows) -> torch.Tensor:
        rows += self.vector[first : first + len(rows), None]
        return rows


@dataclass(frozen=True)
class Scale:
    """weight * `factors`, float32, one for each row, or with `by_column` for each column."""

    factors: torch.Tensor
    by_column: bool

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...] | None:
        return before if before and len(self.factors) == before[-1 if self.by_column else 0] else None

    def apply(self, rows: torch.Tensor, first: int, whole: WholeRows) -> torch.Tensor:
        return rows * (self.factors if self.by_column else self.factors[first : first + len(rows), None])
