"""The one interface of every checkpoint: shape and dtype of each tensor, and any range of its elements."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch
from weightsmith.checkpoint.dtypes import FLOATS, ITEM_SIZES, as_array, numpy_dtypes, torch_dtypes

_TOGETHER = 1 << 16  # elements, of whole rows


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype (safetensors spelling) of a tensor on disk. `computed`: its values are computed in float32, and
    `dtype` is what they are meant to be stored as. `decoded`: from a quantized weight, so that a tensor merged with it
    decides about the dtype."""

    shape: tuple[int, ...]
    dtype: str
    computed: bool = field(default=False, compare=False)
    decoded: bool = field(default=False, compare=False)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def numpy_dtype(self) -> np.dtype:
        return numpy_dtypes()[self.dtype]

    @property
    def read_dtype(self) -> np.dtype:
        """What it is best read into: float32 where its values are computed, else what it is stored as."""
        return np.dtype(np.float32) if self.computed else self.numpy_dtype

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    @property
    def nbytes(self) -> int:
        return self.numel * ITEM_SIZES[self.dtype]


class Checkpoint(Protocol):
    """A read-only collection of named tensors. `read` may be called from several threads at once."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        """Fill `out` (1-d, contiguous, `stop - start` elements, any of the dtypes) with that element range,
        row-major."""
        ...


def read_tensor(checkpoint: Checkpoint, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The whole tensor, in its own dtype or the one given."""
    import torch

    info = checkpoint.tensors[name]
    out = torch.empty(info.numel, dtype=dtype or torch_dtypes()[info.dtype])
    checkpoint.read(name, 0, info.numel, as_array(out))
    return out.reshape(info.shape)


def read_transposed(
    read: Callable[[int, int, np.ndarray], None], stored: tuple[int, int], start: int, stop: int, out: np.ndarray
) -> None:
    """Fill `out` with elements `start` to `stop` of the transpose of a matrix that `read` gives element ranges of and
    that has the shape `stored`. Of each stored row only the columns asked for are read."""
    if start == stop:
        return
    rows, columns = stored
    first, last = start // rows, -(-stop // rows)  # a row of the transpose has one element of each stored row
    part = np.empty((rows, last - first), out.dtype)
    for row in range(rows):
        read(row * columns + first, row * columns + last, part[row])
    out[:] = part.T.reshape(-1)[start - first * rows : stop - first * rows]


def rows_together(width: int) -> int:
    """How many rows of a matrix views compute together where that takes sums: always the same ones, so that values do
    not depend on the pieces in which a tensor is read.

    >>> rows_together(1024)
    64
    """
    return max(1, _TOGETHER // max(1, width))


def by_matrix(first: int, last: int, rows: int) -> Iterator[tuple[int, int, int, int]]:
    """Rows `first` to `last` of matrices of `rows` rows under each other: (matrix, its first row, behind its last row,
    how many came before)."""
    place = first
    while place < last:
        matrix, begin = divmod(place, rows)
        end = min(rows, begin + last - place)
        yield matrix, begin, end, place - first
        place += end - begin


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sorts layer 2 before layer 10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name)]
