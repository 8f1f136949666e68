"""dtypes: how they are spelled, how large an element is, which one holds two, and conversion between them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache, reduce
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


# Names as the safetensors format spells them (https://github.com/huggingface/safetensors#format), and bytes per
# element.
ITEM_SIZES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}


FLOATS = ("F64", "F32", "F16", "BF16")  # what arithmetic knows; 8-bit floats are decoded first
FLOAT8 = ("F8_E4M3", "F8_E5M2")  # F8_E8M0 holds scales


_NUMPY = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}

# torch's names; numpy has them from ml_dtypes.
_ML_DTYPES = {
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}
_TORCH = _NUMPY | _ML_DTYPES


_BY_TORCH = {name: dtype for dtype, name in _TORCH.items()}


@lru_cache(maxsize=1)
def numpy_dtypes() -> dict[str, np.dtype]:
    """Each name's numpy dtype; bfloat16 and the 8-bit floats are those of ml_dtypes."""
    import ml_dtypes

    return {dtype: np.dtype(name) for dtype, name in _NUMPY.items()} | {
        dtype: np.dtype(getattr(ml_dtypes, name)) for dtype, name in _ML_DTYPES.items()
    }


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


def convert(values: np.ndarray, out: np.ndarray) -> None:
    """`values` into `out`, of the same length and any dtype."""
    if out.dtype == np.float32 and values.dtype.itemsize == 2 and values.dtype in _half_dtypes():
        from weightsmith.blocks.convert import from_bfloat16, from_float16

        return (from_float16 if values.dtype == np.float16 else from_bfloat16)(values.view(np.uint16), out)
    if values.dtype == np.float32 and out.dtype.itemsize == 2 and out.dtype in _half_dtypes():
        from weightsmith.blocks.convert import to_bfloat16, to_float16

        return (to_float16 if out.dtype == np.float16 else to_bfloat16)(values, out.view(np.uint16))
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is looked for where it matters
        out[:] = values.astype(out.dtype, copy=False)


def _half_dtypes() -> tuple[np.dtype, np.dtype]:
    return numpy_dtypes()["F16"], numpy_dtypes()["BF16"]


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """The memory of a contiguous 1-d torch tensor as an array, bfloat16 included."""
    import torch

    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(numpy_dtypes()["BF16"])
    return tensor.numpy()
