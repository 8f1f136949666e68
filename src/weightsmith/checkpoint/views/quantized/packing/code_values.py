"""What the codes of quantized formats mean, as float32 tables by code.

8-bit floats: https://arxiv.org/abs/2209.05433; E2M1 and E8M0: the OCP Microscaling specification 1.0.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from weightsmith.checkpoint.dtypes import numpy_dtypes

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)  # E2M1


@lru_cache(maxsize=8)
def values_of(dtype: str) -> np.ndarray:
    """The 256 values of an 8-bit dtype (F8_E4M3, F8_E5M2, F8_E8M0, I8, U8)."""
    return np.arange(256, dtype=np.uint8).view(numpy_dtypes()[dtype]).astype(np.float32)


def unsigned(bits: int) -> np.ndarray:
    """Codes that are numbers from 0 on."""
    return np.arange(1 << bits, dtype=np.float32)


def offset_binary(bits: int) -> np.ndarray:
    """Codes that are numbers from the lowest on: 0 is -8 where there are 4 bits."""
    return unsigned(bits) - np.float32(1 << (bits - 1))


def as_float32(stored: np.ndarray, dtype: str, *, exponents: bool = False) -> np.ndarray:
    """Scales or zero points as stored; `exponents`: bytes that are exponents of two, 127 for 1."""
    if exponents and dtype in ("U8", "F8_E8M0"):
        return values_of("F8_E8M0")[stored.view(np.uint8)]
    if stored.dtype.itemsize == 1:
        return values_of(dtype)[stored.view(np.uint8)]
    return stored.astype(np.float32)
