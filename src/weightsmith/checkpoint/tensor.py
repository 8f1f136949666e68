"""What a tensor is before it is read: its shape and dtype; and the one interface every checkpoint has."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

# Names as the safetensors format spells them (https://github.com/huggingface/safetensors#format), and bytes per element.
ITEM_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@lru_cache(maxsize=1)
def torch_dtypes() -> dict[str, torch.dtype]:
    """Each name's torch dtype. torch is imported when the first tensor is made: headers need none of it."""
    import torch

    return {
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
        "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    }  # fmt: skip


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a torch dtype that `torch_dtypes` has."""
    return next(name for name, known in torch_dtypes().items() if known == dtype)


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype (safetensors spelling) of a tensor on disk."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch_dtypes()[self.dtype]

    @property
    def is_float(self) -> bool:
        return self.dtype in ("F64", "F32", "F16", "BF16")

    @property
    def nbytes(self) -> int:
        return self.numel * ITEM_SIZES[self.dtype]


class Checkpoint(Protocol):
    """A read-only collection of named tensors. `read` may be called from several threads at once."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def read(self, name: str, start: int, stop: int, out: torch.Tensor) -> None:
        """Fill `out` (1-d, contiguous, `stop - start` elements, any dtype) with that element range, row-major."""
        ...


def read_tensor(checkpoint: Checkpoint, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The whole tensor, in its own dtype or the one given."""
    import torch

    info = checkpoint.tensors[name]
    out = torch.empty(info.numel, dtype=dtype or info.torch_dtype)
    checkpoint.read(name, 0, info.numel, out)
    return out.reshape(info.shape)


def read_transposed(
    read: Callable[[int, int, torch.Tensor], None], stored: tuple[int, int], start: int, stop: int, out: torch.Tensor
) -> None:
    """Fill `out` with elements `start` to `stop` of the transpose of a matrix that `read` gives element ranges of and that has
    the shape `stored`. Of each stored row only the columns asked for are read. `out` has the stored dtype."""
    import torch

    if start == stop:
        return
    rows, columns = stored
    first, last = start // rows, -(-stop // rows)  # a row of the transpose has one element of each stored row
    part = torch.empty(rows, last - first, dtype=out.dtype)
    for row in range(rows):
        read(row * columns + first, row * columns + last, part[row])
    out.copy_(part.T.reshape(-1)[start - first * rows : stop - first * rows])


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sorts layer 2 before layer 10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name)]
