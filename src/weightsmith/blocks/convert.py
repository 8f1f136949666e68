"""float16 and bfloat16 to float32 and back, by their bits (IEEE 754-2019; bfloat16 is the upper half of a float32).

numpy converts float16 one element at a time and has no bfloat16; these loops go through vector registers. Rounding is
to the nearest, ties to even, as everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from weightsmith.blocks.numba_support.compile import inner_kernel, kernel
from weightsmith.blocks.numba_support.compile_beside import CompiledBeside
from weightsmith.blocks.numba_support.half_precision import narrow, widen
from weightsmith.blocks.numba_support.stretch import stretch

# Codes by which kernels know the dtype of a row of bytes.
F32, F16, BF16, F64 = 0, 1, 2, 3
DTYPE_CODES = {"F32": F32, "F16": F16, "BF16": BF16, "F64": F64}

_TILE = 1 << 11  # elements that stay in the first-level cache from one loop to the next
_INFINITE = np.int32(0x7F800000)
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
    bits = stretch(out, np.uint32, 0, out.size)
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
    bits = stretch(values, np.uint32, 0, values.size)
    for i in range(values.size):
        stored = bits[i]
        rounded = np.uint32(stored + _BFLOAT16_ROUND + ((stored >> _SIXTEEN) & _ONE)) >> _SIXTEEN
        quiet = np.uint32((stored >> _SIXTEEN) | np.uint32(0x40))
        out[i] = np.uint16(quiet if np.uint32(stored & _SIZE) > _INFINITY else rounded)


@inner_kernel()
def copy(values: np.ndarray, out: np.ndarray) -> None:
    """[n] to [n]. An assignment to a slice would compile for seconds: numba builds the text of its error with it."""
    for i in range(values.size):
        out[i] = values[i]


@kernel()
def load(dtype_code: Any, stored: np.ndarray, first: int, out: np.ndarray) -> None:
    """Elements `first` on of a row of bytes (uint8), as float32 [n]. F64 is not for kernels."""
    if dtype_code == F16:
        from_float16(stretch(stored, np.uint16, first, out.size), out)
    elif dtype_code == BF16:
        from_bfloat16(stretch(stored, np.uint16, first, out.size), out)
    else:
        copy(stretch(stored, np.float32, first, out.size), out)


def store(values: np.ndarray, round_to: int, dtype_code: int, out: np.ndarray) -> tuple[int, int]:
    """float32 [n] into a row of bytes (uint8) of dtype `dtype_code`, rounded to `round_to` first. Overwrites `values`.
    Returns how many are NaN or infinite before that, and the bits of the largest magnitude among the others."""
    STORE_BESIDE.wait()
    if round_to in (F16, BF16) and round_to != dtype_code:
        found = _measure(values)
        _round(values, round_to)
        _store(values, dtype_code, out)
        return found
    return _store(values, dtype_code, out)


@kernel()
def _store(values: np.ndarray, dtype_code: int, out: np.ndarray) -> tuple[int, int]:
    not_finite, largest = 0, 0
    for first in range(0, values.size, _TILE):
        size = min(_TILE, values.size - first)
        part = stretch(values, np.float32, first, size)
        found, worst = _measure(part)
        not_finite, largest = not_finite + found, worst if worst > largest else largest
        if dtype_code == F16:
            to_float16(part, stretch(out, np.uint16, first, size))
        elif dtype_code == BF16:
            to_bfloat16(part, stretch(out, np.uint16, first, size))
        elif dtype_code == F64:
            copy(part, stretch(out, np.float64, first, size))
        else:
            copy(part, stretch(out, np.float32, first, size))
    return not_finite, largest


def _call_load() -> None:
    load(F32, np.empty(0, np.uint8), 0, np.empty(0, np.float32))


def _call_store() -> None:
    _store(np.empty(0, np.float32), F32, np.empty(0, np.uint8))


STORE_BESIDE = CompiledBeside(_store, first=_call_load, last=_call_store)  # what every merge calls first and last


@kernel()
def _measure(values: np.ndarray) -> tuple[int, int]:
    """What `store` returns."""
    bits, worst, not_finite = stretch(values, np.int32, 0, values.size), np.int32(0), 0
    for i in range(bits.size):  # magnitudes order like their bits
        magnitude = np.int32(bits[i] & np.int32(0x7FFFFFFF))
        worst = magnitude if magnitude > worst else worst
    if worst >= _INFINITE:
        worst = np.int32(0)
        for i in range(bits.size):
            magnitude = np.int32(bits[i] & np.int32(0x7FFFFFFF))
            not_finite += magnitude >= _INFINITE
            worst = magnitude if worst < magnitude < _INFINITE else worst
    return int(not_finite), int(worst)


@kernel()
def _round(values: np.ndarray, round_to: int) -> None:
    """float32 [n] to the nearest numbers of float16 or bfloat16, in place."""
    tile = np.empty(_TILE, np.uint16)
    for first in range(0, values.size, _TILE):
        part = stretch(values, np.float32, first, min(_TILE, values.size - first))
        half = stretch(tile, np.uint16, 0, part.size)
        if round_to == F16:
            to_float16(part, half)
            from_float16(half, part)
        else:
            to_bfloat16(part, half)
            from_bfloat16(half, part)
