# pyright: reportCallIssue=false
"""One float16 to float32 and back, for compiled loops: the processor's own instruction where it has one, else by the
bits."""

from __future__ import annotations

import platform

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_SIGN, _SIZE = np.uint32(0x80000000), np.uint32(0x7FFFFFFF)
_INFINITY = np.uint32(0x7F800000)
_HALF_INFINITY = np.uint32(0x7C00 << 13)
_REBIAS = np.float32(2.0**112)  # from the exponents of float16 to those of float32; subnormal numbers come out right
_HALF_TOO_LARGE, _HALF_SUBNORMAL = np.uint32(0x47800000), np.uint32(0x38800000)  # 2**16 and 2**-14
_MAGIC = np.uint32(126 << 23)  # 0.5: what is added to it loses the bits that a subnormal float16 has no room for
_HALF_ROUND = np.uint32((0xFFF - (112 << 23)) & 0xFFFFFFFF)
_ONE, _THIRTEEN, _SIXTEEN = np.uint32(1), np.uint32(13), np.uint32(16)


@intrinsic
def _as_float(typing_context, bits):
    """float32 with the bits of a uint32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def _as_bits(typing_context, value):
    """uint32 with the bits of a float32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def _widen_by_processor(typing_context, stored):
    def generate(context, builder, signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def _narrow_by_processor(typing_context, value):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


@numba.njit(inline="always")
def widen_by_bits(stored: np.uint16) -> np.float32:
    """The bits of a float16 as float32."""
    wide = np.uint32(stored)
    size = np.uint32((wide & np.uint32(0x7FFF)) << _THIRTEEN)
    scaled = _as_bits(_as_float(size) * _REBIAS)
    special = _INFINITY if size >= _HALF_INFINITY else np.uint32(0)
    return _as_float(np.uint32(scaled | special | ((wide << _SIXTEEN) & _SIGN)))


@numba.njit(inline="always")
def narrow_by_bits(value: np.float32) -> np.uint16:
    """The bits of the float16 that is nearest, ties to even; 65520 and more are infinite."""
    stored = _as_bits(value)
    size = np.uint32(stored & _SIZE)
    normal = np.uint32(size + _HALF_ROUND + ((size >> _THIRTEEN) & _ONE)) >> _THIRTEEN
    subnormal = np.uint32(_as_bits(_as_float(size) + np.float32(0.5)) - _MAGIC)
    half = subnormal if size < _HALF_SUBNORMAL else normal
    beyond = np.uint32(0x7E00) if size > _INFINITY else np.uint32(0x7C00)
    half = beyond if size >= _HALF_TOO_LARGE else half
    return np.uint16(half | ((stored & _SIGN) >> _SIXTEEN))


@numba.njit(inline="always")
def _widen(stored: np.uint16) -> np.float32:
    return _widen_by_processor(stored)


@numba.njit(inline="always")
def _narrow(value: np.float32) -> np.uint16:
    return _narrow_by_processor(value)


def _has_instruction() -> bool:
    """F16C (x86 since 2012), or any 64-bit ARM."""
    return platform.machine() in ("arm64", "aarch64") or llvmlite.binding.get_host_cpu_features().get("f16c", False)


widen, narrow = (_widen, _narrow) if _has_instruction() else (widen_by_bits, narrow_by_bits)
