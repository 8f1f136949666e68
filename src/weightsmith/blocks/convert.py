"""float16 and bfloat16 to float32 and back, by their bits (IEEE 754-2019; bfloat16 is the upper half of a float32).

numpy converts float16 one element at a time and has no bfloat16; these loops go through vector registers. Rounding is
to the nearest, ties to even, as everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from weightsmith.blocks.numba_support.compile import kernel
from weightsmith.blocks.numba_support.half_precision import narrow, widen
from weightsmith.blocks.numba_support.same_bytes import same_bytes

# Codes by which kernels know the dtype of a row of bytes.
F32, F16, BF16, F64 = 0, 1, 2, 3
DTYPE_CODES = {"F32": F32, "F16": F16, "BF16": BF16, "F64": F64}

_SIZE, _INFINITY = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)
_ONE, _SIXTEEN, _BFLOAT16_ROUND = np.uint32(1), np.uint32(16), np.uint32(0x7FFF)


@kernel()
def from_float16(stored: np.ndarray, out: np.ndarray) -> None:
    """uint16 [n], the bits of float16, to float32 [n]."""
    for i in range(out.size):
        out[i] = widen(stored[i])


@kernel()
def from_bfloat16(stored: np.ndarray, out: np.ndarray) -> None:
    """uint16 [n], the bits of bfloat16, to float32 [n]."""
    bits = same_bytes(out, np.uint32)
    for i in range(out.size):
        bits[i] = np.uint32(stored[i]) << _SIXTEEN


@kernel()
def to_float16(values: np.ndarray, out: np.ndarray) -> None:
    """float32 [n] to uint16 [n], the bits of float16. 65520 and larger become infinite."""
    for i in range(values.size):
        out[i] = narrow(values[i])


@kernel()
def to_bfloat16(values: np.ndarray, out: np.ndarray) -> None:
    """float32 [n] to uint16 [n], the bits of bfloat16."""
    bits = same_bytes(values, np.uint32)
    for i in range(values.size):
        stored = bits[i]
        rounded = np.uint32(stored + _BFLOAT16_ROUND + ((stored >> _SIXTEEN) & _ONE)) >> _SIXTEEN
        quiet = np.uint32((stored >> _SIXTEEN) | np.uint32(0x40))
        out[i] = np.uint16(quiet if np.uint32(stored & _SIZE) > _INFINITY else rounded)


@kernel()
def copy(values: np.ndarray, out: np.ndarray) -> None:
    """[n] to [n]. An assignment to a slice would compile for seconds: numba builds the text of its error with it."""
    for i in range(values.size):
        out[i] = values[i]


@kernel()
def load(dtype_code: Any, stored: np.ndarray, first: int, out: np.ndarray) -> None:
    """Elements `first` on of a row of bytes (uint8), as float32 [n]. F64 is not for kernels."""
    if dtype_code == F16:
        from_float16(same_bytes(stored[2 * first : 2 * (first + out.size)], np.uint16), out)
    elif dtype_code == BF16:
        from_bfloat16(same_bytes(stored[2 * first : 2 * (first + out.size)], np.uint16), out)
    else:
        copy(same_bytes(stored[4 * first : 4 * (first + out.size)], np.float32), out)


@kernel()
def store(values: np.ndarray, round_to: int, dtype_code: int, out: np.ndarray) -> tuple[int, int]:
    """float32 [n] into a row of bytes (uint8) of dtype `dtype_code`, rounded to `round_to` first. Overwrites `values`.
    Returns how many are NaN or infinite before that, and the bits of the largest magnitude among the others."""
    tile = np.empty(1 << 11, np.uint16)
    not_finite, largest = 0, np.int32(0)
    for first in range(0, values.size, tile.size):
        part = values[first : first + min(tile.size, values.size - first)]
        bits, worst = same_bytes(part, np.int32), np.int32(0)
        for i in range(part.size):  # magnitudes order like their bits
            worst = max(worst, np.int32(bits[i] & np.int32(0x7FFFFFFF)))
        if worst >= np.int32(0x7F800000):
            worst = np.int32(0)
            for i in range(part.size):
                size = np.int32(bits[i] & np.int32(0x7FFFFFFF))
                not_finite += size >= np.int32(0x7F800000)
                worst = max(worst, size if size < np.int32(0x7F800000) else np.int32(0))
        largest = max(largest, worst)
        if round_to != dtype_code:
            half = tile[: part.size]
            if round_to == F16:
                to_float16(part, half)
                from_float16(half, part)
            elif round_to == BF16:
                to_bfloat16(part, half)
                from_bfloat16(half, part)
        last = first + part.size
        if dtype_code == F16:
            to_float16(part, same_bytes(out[2 * first : 2 * last], np.uint16))
        elif dtype_code == BF16:
            to_bfloat16(part, same_bytes(out[2 * first : 2 * last], np.uint16))
        elif dtype_code == F64:
            copy(part, same_bytes(out[8 * first : 8 * last], np.float64))
        else:
            copy(part, same_bytes(out[4 * first : 4 * last], np.float32))
    return int(not_finite), int(largest)
