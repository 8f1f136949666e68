"""The family of task arithmetic in few sweeps over blocks that stay in the cache; the maths is that of `task_vectors.py`."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import torch

from weightsmith.methods.method import Block
from weightsmith.methods.random_stream import below, fill_random
from weightsmith.methods.sparsify import BY_CHANCE, Kept

_INFINITE = np.float32(np.inf)
_TILE = 1 << 12  # elements per sweep: a few arrays of them fit into the first-level cache


def combine_fused(
    block: Block, base: int, others: Sequence[int], weights: Sequence[float], kept: dict[int, Kept], width: int, *,
    elect: bool, normalize: bool, scale: float,
) -> torch.Tensor:  # fmt: skip
    """What `TaskVectorMethod.combine` returns, into `block.out`. Overwrites the inputs with their weighted task vectors."""
    rows, out = block.inputs.numpy(), block.out.numpy()
    plain = Kept("all")
    hows = [kept.get(i, plain) for i in others]
    for i, how in zip(others, hows, strict=True):
        if how.kind in BY_CHANCE:
            _subtract(rows[base], rows[i])
            _thin(rows[i], how, block.start, width)
    models = np.array(others)
    done = np.array([how.kind in BY_CHANCE for how in hows])
    low, high = np.array([how.low for how in hows]), np.array([how.high for how in hows])
    factors, given = np.array([how.factor for how in hows], np.float32), np.array(weights, np.float32)
    if elect:
        _elect(rows, base, models, done, low, high, factors, given, normalize, np.float32(scale), out)
    else:
        total = float(given.sum(dtype=np.float32))
        divisor = total if normalize and abs(total) >= 1e-8 else 1.0
        _sum(rows, base, models, done, low, high, factors, given, np.float32(divisor), np.float32(scale), out)
    return block.out


def thinned_stretch(
    block: Block, base: int, other: int, how: Kept, width: int
) -> tuple[float, float, np.ndarray | None]:
    """(l1 norm of a task vector's stretch, of what is kept of it, and where chance decided, a bit for each kept element)."""
    rows = block.inputs.numpy()
    delta = rows[other]
    _subtract(rows[base], delta)
    before = float(_l1(delta))
    _thin(delta, how, block.start, width)
    return before, float(_l1(delta)), np.packbits(delta != 0) if how.kind in BY_CHANCE else None


def _thin(delta: np.ndarray, how: Kept, start: int, width: int) -> None:
    """Set to zero in place what is not kept."""
    if how.bits is not None and start in how.bits:
        return _keep_bits(delta, np.unpackbits(how.bits[start], count=len(delta)))
    if how.kind == "between":
        _keep_between(delta, how.low, how.high)
    elif how.kind == "random":
        numbers = np.empty(len(delta), np.uint32)
        fill_random(how.key, start, numbers)
        _keep_below(delta, numbers, np.uint32(below(how.density)))
    elif how.kind == "ranked":
        numbers = np.empty(len(delta), np.uint32)
        fill_random(how.key, start, numbers)
        packed = (np.abs(delta).view(np.int32).astype(np.int64) << 32).reshape(-1, width)
        packed += np.arange(width)  # the order of equal magnitudes is that of their columns
        packed.sort(axis=1)
        shares = (how.density - how.epsilon) + np.arange(width) / max(1, width - 1) * 2 * how.epsilon
        bounds = np.minimum(np.rint(shares * 2**32), 2**32 - 1).astype(np.uint32)
        _keep_ranked(delta.reshape(-1, width), numbers.reshape(-1, width), packed, bounds)


@numba.njit(nogil=True, cache=True, fastmath={"reassoc"})
def _l1(delta: np.ndarray) -> float:
    total = np.float64(0)
    for i in range(delta.size):
        total += np.float64(abs(delta[i]))
    return total


@numba.njit(nogil=True, cache=True)
def _keep_bits(delta: np.ndarray, bits: np.ndarray) -> None:
    for i in range(delta.size):
        delta[i] = delta[i] * np.float32(bits[i])


@numba.njit(nogil=True, cache=True)
def _subtract(base: np.ndarray, other: np.ndarray) -> None:
    for i in range(base.size):
        other[i] -= base[i]


@numba.njit(nogil=True, cache=True)
def _keep_between(delta: np.ndarray, low: np.float32, high: np.float32) -> None:
    for i in range(delta.size):
        size = abs(delta[i])
        if size < low or (size >= high and size < _INFINITE):
            delta[i] = np.float32(0)


@numba.njit(nogil=True, cache=True)
def _keep_below(delta: np.ndarray, numbers: np.ndarray, bound: np.uint32) -> None:
    for i in range(delta.size):
        delta[i] = delta[i] * np.float32(numbers[i] < bound)  # a product, so that NaN stays to be seen


@numba.njit(nogil=True, cache=True)
def _keep_ranked(delta: np.ndarray, numbers: np.ndarray, packed: np.ndarray, bounds: np.ndarray) -> None:
    own = np.empty(delta.shape[1], np.uint32)
    for row in range(delta.shape[0]):
        order, values, drawn = packed[row], delta[row], numbers[row]
        for rank in range(values.size):
            own[order[rank] & 0xFFFFFFFF] = bounds[rank]
        for i in range(values.size):
            values[i] = values[i] * np.float32(drawn[i] < own[i])


@numba.njit(nogil=True, cache=True, inline="always")
def _weigh(
    delta: np.ndarray, base: np.ndarray, done: bool, low: np.float32, high: np.float32, factor: np.float32,
    weight: np.float32, total: np.ndarray,
) -> None:  # fmt: skip
    """Fine-tune to weighted, thinned task vector, in place, and onto `total`. `done`: it is a thinned task vector already."""
    if not done:
        for i in range(delta.size):
            value = delta[i] - base[i]
            size = abs(value)
            delta[i] = np.float32(0) if (size < low) | ((size >= high) & (size < _INFINITE)) else value
    for i in range(delta.size):
        value = delta[i] * factor * weight
        delta[i] = value
        total[i] += value


@numba.njit(nogil=True, cache=True)
def _sum(
    rows: np.ndarray, base: int, models: np.ndarray, done: np.ndarray, low: np.ndarray, high: np.ndarray,
    factors: np.ndarray, weights: np.ndarray, divisor: np.float32, scale: np.float32, out: np.ndarray,
) -> None:  # fmt: skip
    for first in range(0, out.size, _TILE):
        last = min(first + _TILE, out.size)
        total, start = out[first:last], rows[base, first:last]
        total[:] = np.float32(0)
        for m in range(models.size):
            _weigh(rows[models[m], first:last], start, done[m], low[m], high[m], factors[m], weights[m], total)
        for i in range(total.size):
            total[i] = start[i] + total[i] / divisor * scale


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _elect(
    rows: np.ndarray, base: int, models: np.ndarray, done: np.ndarray, low: np.ndarray, high: np.ndarray,
    factors: np.ndarray, weights: np.ndarray, normalize: bool, scale: np.float32, out: np.ndarray,
) -> None:  # fmt: skip
    one, zero = np.float32(1), np.float32(0)
    all_signs, all_divisors = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    for first in range(0, out.size, _TILE):
        last = min(first + _TILE, out.size)
        mixed, start = out[first:last], rows[base, first:last]
        sign, divisor = all_signs[: last - first], all_divisors[: last - first]
        mixed[:] = zero
        for m in range(models.size):
            _weigh(rows[models[m], first:last], start, done[m], low[m], high[m], factors[m], weights[m], mixed)
        for i in range(mixed.size):
            sign[i] = -one if mixed[i] < zero else one
            mixed[i] = mixed[i] * zero  # zero, and NaN where the sum is none
            divisor[i] = zero
        for m in range(models.size):
            delta, weight = rows[models[m], first:last], weights[m]
            for i in range(mixed.size):
                toward = delta[i] * sign[i]  # positive where it has the elected sign
                agrees = one if toward > zero else zero
                mixed[i] += toward * agrees
                divisor[i] += weight * agrees
        if normalize:
            for i in range(mixed.size):
                mixed[i] = mixed[i] / (one if divisor[i] == zero else divisor[i])
        for i in range(mixed.size):
            mixed[i] = start[i] + mixed[i] * sign[i] * scale
