"""The family of task arithmetic in few sweeps over blocks that stay in the cache; the maths is that of `task_vectors.py`."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import torch

from weightsmith.methods.method import Block
from weightsmith.methods.random_stream import below, fill_random
from weightsmith.methods.sparsify import Kept

_TILE = 1 << 12  # elements per sweep: a few arrays of them fit into the first-level cache


def combine_fused(
    block: Block, base: int, others: Sequence[int], weights: Sequence[float], kept: dict[int, Kept], width: int, *,
    elect: bool, normalize: bool, scale: float,
) -> torch.Tensor:  # fmt: skip
    """What `TaskVectorMethod.combine` returns, into `block.out`. Overwrites the inputs with their weighted task vectors."""
    rows, out = block.inputs.numpy(), block.out.numpy()
    for i in others:
        _subtract(rows[base], rows[i])
        if how := kept.get(i):
            _thin(rows[i], how, block.start, width)
    factors = np.array([kept[i].factor if i in kept else 1.0 for i in others], np.float32)
    given = np.array(weights, np.float32)
    if elect:
        _elect(rows, base, np.array(others), factors, given, normalize, np.float32(scale), out)
    else:
        total = float(given.sum(dtype=np.float32))
        divisor = total if normalize and abs(total) >= 1e-8 else 1.0
        _sum(rows, base, np.array(others), factors, given, np.float32(divisor), np.float32(scale), out)
    return block.out


def l1_norms(block: Block, base: int, other: int, how: Kept, width: int) -> tuple[float, float]:
    """(l1 norm of a task vector's stretch, of what is kept of it)."""
    rows = block.inputs.numpy()
    delta = rows[other] - rows[base]
    before = float(np.abs(delta).sum(dtype=np.float64))
    _thin(delta, how, block.start, width)
    return before, float(np.abs(delta).sum(dtype=np.float64))


def _thin(delta: np.ndarray, how: Kept, start: int, width: int) -> None:
    """Set to zero in place what is not kept."""
    if how.kind == "between":
        _keep_between(delta, how.low, how.high)
    elif how.kind == "random":
        numbers = np.empty(len(delta), np.uint32)
        fill_random(np.uint64(how.key), start, numbers)
        _keep_below(delta, numbers, np.uint32(below(how.density)))
    elif how.kind == "ranked":
        numbers = np.empty(len(delta), np.uint32)
        fill_random(np.uint64(how.key), start, numbers)
        packed = (np.abs(delta).view(np.int32).astype(np.int64) << 32).reshape(-1, width)
        packed += np.arange(width)  # the order of equal magnitudes is that of their columns
        packed.sort(axis=1)
        shares = (how.density - how.epsilon) + np.arange(width) / max(1, width - 1) * 2 * how.epsilon
        bounds = np.rint(shares * 2**32).astype(np.int64)
        _keep_ranked(delta.reshape(-1, width), numbers.reshape(-1, width), packed, bounds)


@numba.njit(nogil=True, cache=True)
def _subtract(base: np.ndarray, other: np.ndarray) -> None:
    for i in range(base.size):
        other[i] -= base[i]


@numba.njit(nogil=True, cache=True)
def _keep_between(delta: np.ndarray, low: np.float32, high: np.float32) -> None:
    for i in range(delta.size):
        size = abs(delta[i])
        if size < low or size >= high:
            delta[i] = np.float32(0)


@numba.njit(nogil=True, cache=True)
def _keep_below(delta: np.ndarray, numbers: np.ndarray, bound: np.uint32) -> None:
    for i in range(delta.size):
        delta[i] = delta[i] * np.float32(numbers[i] < bound)  # a product, so that NaN stays to be seen


@numba.njit(nogil=True, cache=True)
def _keep_ranked(delta: np.ndarray, numbers: np.ndarray, packed: np.ndarray, bounds: np.ndarray) -> None:
    for row in range(delta.shape[0]):
        for rank in range(delta.shape[1]):
            column = packed[row, rank] & 0xFFFFFFFF
            delta[row, column] = delta[row, column] * np.float32(np.int64(numbers[row, column]) < bounds[rank])


@numba.njit(nogil=True, cache=True)
def _sum(
    rows: np.ndarray, base: int, others: np.ndarray, factors: np.ndarray, weights: np.ndarray, divisor: np.float32,
    scale: np.float32, out: np.ndarray,
) -> None:  # fmt: skip
    for first in range(0, out.size, _TILE):
        last = min(first + _TILE, out.size)
        total = out[first:last]
        total[:] = np.float32(0)
        for m in range(others.size):
            delta, factor, weight = rows[others[m], first:last], factors[m], weights[m]
            for i in range(total.size):
                total[i] += delta[i] * factor * weight
        start = rows[base, first:last]
        for i in range(total.size):
            total[i] = start[i] + total[i] / divisor * scale


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _elect(
    rows: np.ndarray, base: int, others: np.ndarray, factors: np.ndarray, weights: np.ndarray, normalize: bool,
    scale: np.float32, out: np.ndarray,
) -> None:  # fmt: skip
    one, zero = np.float32(1), np.float32(0)
    sign, divisor = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    for first in range(0, out.size, _TILE):
        last = min(first + _TILE, out.size)
        mixed, count = out[first:last], last - first
        mixed[:] = zero
        for m in range(others.size):
            delta, factor, weight = rows[others[m], first:last], factors[m], weights[m]
            for i in range(count):
                value = delta[i] * factor * weight
                delta[i] = value
                mixed[i] += value
        for i in range(count):
            sign[i] = -one if mixed[i] < zero else one
            mixed[i] = mixed[i] * zero  # zero, and NaN where the sum is none
            divisor[i] = zero
        for m in range(others.size):
            delta, weight = rows[others[m], first:last], weights[m]
            for i in range(count):
                toward = delta[i] * sign[i]  # positive where it has the elected sign
                agrees = one if toward > zero else zero
                mixed[i] += toward * agrees
                divisor[i] += weight * agrees
        start = rows[base, first:last]
        for i in range(count):
            divided = mixed[i]
            if normalize:
                divided = divided / (one if divisor[i] == zero else divisor[i])
            mixed[i] = start[i] + divided * sign[i] * scale
