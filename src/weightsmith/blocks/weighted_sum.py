"""Sums of weighted inputs, and their dot products, in one sweep over the bytes as they are stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weightsmith.blocks.block import Block, Scan
from weightsmith.blocks.convert import load
from weightsmith.blocks.numba_support.compile import inner_kernel, kernel
from weightsmith.blocks.numba_support.stretch import stretch
from weightsmith.blocks.on_device.device_statistics import dot_products_of

TILE = 1 << 10  # elements per sweep: a few float32 arrays of them fit into the first-level cache


def weighted_sum(block: Block, weights: Sequence[float], divisor: float = 1.0) -> np.ndarray:
    """sum(w_i x_i) / divisor over all inputs of a block, into `block.out`."""
    _weighted_sum(block.rows, block.dtype_codes, np.array(weights, np.float32), np.float32(divisor), block.out)
    return block.out


def add_weighted_changes(block: Block, base: int, weights: Sequence[float]) -> np.ndarray:
    """base + sum(w_i (x_i - base)) over all inputs of a block, into `block.out`; `weights[base]` says nothing."""
    _add_weighted_changes(block.rows, block.dtype_codes, base, np.array(weights, np.float32), block.out)
    return block.out


def dot_products(scan: Scan, minus: int | None = None) -> np.ndarray:
    """float64 [models, models]: the dot product of every input with every other and with itself, over a whole tensor;
    of their differences to the input `minus`, if one is given."""
    total = np.zeros((0, 0))
    for block in scan.blocks():
        if not len(total):
            total = np.zeros((len(block.rows), len(block.rows)))
        if block.device == "cpu":
            _dot_products(block.rows, block.dtype_codes, -1 if minus is None else minus, len(block.out), total)
        else:
            total += dot_products_of(block, minus)
    return total


@kernel(error_model="numpy")
def _weighted_sum(
    rows: np.ndarray, dtype_codes: np.ndarray, weights: np.ndarray, divisor: np.float32, out: np.ndarray
) -> None:
    tile = np.empty(TILE, np.float32)
    for first in range(0, out.size, TILE):
        size = min(TILE, out.size - first)
        total, part = stretch(out, np.float32, first, size), stretch(tile, np.float32, 0, size)
        for i in range(size):
            total[i] = np.float32(0)
        for m in range(weights.size):
            load(dtype_codes[m], rows[m], first, part)
            weight = weights[m]
            for i in range(size):
                total[i] += part[i] * weight
        if divisor != np.float32(1):
            for i in range(size):
                total[i] = total[i] / divisor


@kernel()
def _add_weighted_changes(
    rows: np.ndarray, dtype_codes: np.ndarray, base: int, weights: np.ndarray, out: np.ndarray
) -> None:
    start_tile, tile = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    for first in range(0, out.size, TILE):
        size = min(TILE, out.size - first)
        total, part = stretch(out, np.float32, first, size), stretch(tile, np.float32, 0, size)
        start = stretch(start_tile, np.float32, 0, size)
        load(dtype_codes[base], rows[base], first, start)
        for i in range(size):
            total[i] = np.float32(0)
        for m in range(weights.size):
            if m != base:
                load(dtype_codes[m], rows[m], first, part)
                weight = weights[m]
                for i in range(size):
                    total[i] += (part[i] - start[i]) * weight
        for i in range(size):
            total[i] += start[i]


@kernel()
def _dot_products(rows: np.ndarray, dtype_codes: np.ndarray, minus: int, count: int, total: np.ndarray) -> None:
    models = dtype_codes.size
    tiles = np.empty(models * TILE, np.float32)
    for first in range(0, count, TILE):
        size = min(TILE, count - first)
        for m in range(models):
            load(dtype_codes[m], rows[m], first, stretch(tiles, np.float32, m * TILE, size))
        if minus >= 0:
            start = stretch(tiles, np.float32, minus * TILE, size)
            for m in range(models):
                if m != minus:
                    subtract(start, stretch(tiles, np.float32, m * TILE, size))
        for a in range(models):
            for b in range(a, models):
                if a != minus and b != minus:
                    product = _dot(
                        stretch(tiles, np.float32, a * TILE, size), stretch(tiles, np.float32, b * TILE, size)
                    )
                    total[a, b] += product
                    if a != b:
                        total[b, a] += product


@inner_kernel(fastmath={"reassoc", "contract"})
def _dot(a: np.ndarray, b: np.ndarray) -> float:
    total = np.float64(0)
    for i in range(a.size):
        total += np.float64(a[i]) * np.float64(b[i])
    return total


@inner_kernel()
def subtract(start: np.ndarray, other: np.ndarray) -> None:
    for i in range(start.size):
        other[i] -= start[i]
