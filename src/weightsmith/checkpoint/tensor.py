"""What a tensor is before it is read: its shape and dtype; and the one interface every checkpoint has."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

# Names as the safetensors format spells them (https://github.com/huggingface/safetensors#format), and bytes per element.
ITEM_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FLOATS = ("F64", "F32", "F16", "BF16")


_NUMPY = {
    "F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_TORCH = _NUMPY | {"BF16": "bfloat16"}
_BY_TORCH = {name: dtype for dtype, name in _TORCH.items()}


@lru_cache(maxsize=1)
def numpy_dtypes() -> dict[str, np.dtype]:
    """Each name's numpy dtype; bfloat16 is that of ml_dtypes."""
    import ml_dtypes

    return {dtype: np.dtype(name) for dtype, name in _NUMPY.items()} | {"BF16": np.dtype(ml_dtypes.bfloat16)}


@lru_cache(maxsize=1)
def torch_dtypes() -> dict[str, torch.dtype]:
    """Each name's torch dtype. Imports torch, which takes over a second."""
    import torch

    return {dtype: getattr(torch, name) for dtype, name in _TORCH.items()}


def dtype_named(name: str) -> str:
    """The safetensors spelling of what torch, configs and recipes call `bfloat16`. Raises KeyError."""
    return _BY_TORCH[name]


def dtype_title(dtype: str) -> str:
    """What torch, configs and recipes call a dtype."""
    return _TORCH[dtype]


def promoted(dtypes: Iterable[str]) -> str:
    """The dtype that holds what all of `dtypes` hold, floating point before integers, as torch promotes them."""
    return reduce(_wider, dtypes)


def _wider(a: str, b: str) -> str:
    if a == b:
        return a
    if a in FLOATS and b in FLOATS:
        return "F64" if "F64" in (a, b) else "F32"  # float16 and bfloat16 have only float32 in common
    if a in FLOATS or b in FLOATS:
        return a if a in FLOATS else b
    if "BOOL" in (a, b):
        return b if a == "BOOL" else a
    if "U8" in (a, b) and "I8" in (a, b):
        return "I16"
    return max(a, b, key=lambda dtype: (ITEM_SIZES[dtype], dtype))


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype (safetensors spelling) of a tensor on disk. `computed`: its values are computed in float32, and `dtype`
    is what they are meant to be stored as."""

    shape: tuple[int, ...]
    dtype: str
    computed: bool = field(default=False, compare=False)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def numpy_dtype(self) -> np.dtype:
        return numpy_dtypes()[self.dtype]

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
        """Fill `out` (1-d, contiguous, `stop - start` elements, any of the dtypes) with that element range, row-major."""
        ...


def convert(values: np.ndarray, out: np.ndarray) -> None:
    """`values` into `out`, of the same length and any dtype."""
    if out.dtype == np.float32 and values.dtype.itemsize == 2 and values.dtype in _halves():
        from weightsmith.checkpoint.conversion import from_brain, from_half

        return (from_half if values.dtype == np.float16 else from_brain)(values.view(np.uint16), out)
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is looked for where it matters
        out[:] = values.astype(out.dtype, copy=False)


def _halves() -> tuple[np.dtype, np.dtype]:
    return numpy_dtypes()["F16"], numpy_dtypes()["BF16"]


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """The memory of a contiguous 1-d torch tensor as an array, bfloat16 included."""
    import torch

    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(numpy_dtypes()["BF16"])
    return tensor.numpy()


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
    """Fill `out` with elements `start` to `stop` of the transpose of a matrix that `read` gives element ranges of and that has
    the shape `stored`. Of each stored row only the columns asked for are read."""
    if start == stop:
        return
    rows, columns = stored
    first, last = start // rows, -(-stop // rows)  # a row of the transpose has one element of each stored row
    part = np.empty((rows, last - first), out.dtype)
    for row in range(rows):
        read(row * columns + first, row * columns + last, part[row])
    out[:] = part.T.reshape(-1)[start - first * rows : stop - first * rows]


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sorts layer 2 before layer 10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name)]
