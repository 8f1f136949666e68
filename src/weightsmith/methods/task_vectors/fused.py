"""The family of task arithmetic in one sweep over the bytes as they are stored; the maths is that of
`task_vector_method.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import float32

from weightsmith.blocks.block import Block
from weightsmith.blocks.convert import load
from weightsmith.blocks.numba_support.compile import inner_kernel, kernel
from weightsmith.blocks.numba_support.stretch import stretch
from weightsmith.blocks.on_device.device_statistics import l1_of
from weightsmith.blocks.random_stream import LOWER, MORE, UPPER, below, fill_halves
from weightsmith.blocks.weighted_sum import TILE, subtract
from weightsmith.methods.task_vectors.sparsify import BY_CHANCE, Choices, Selection
from weightsmith.methods.tensor_settings import Settings

_INFINITE = np.float32(np.inf)
_SORTED = 1 << 15  # elements whose rows are sorted together: they stay in the second-level cache
NEARLY_ZERO = 1e-8  # mergekit's bound for a sum of weights that cannot be divided by
_DRAWS = TILE // 2 + MORE  # memory for the random numbers of a tile


def combine_fused(
    block: Block,
    settings: Settings,
    selections: Mapping[int, Selection],
    width: int,
    *,
    elect: bool,
) -> np.ndarray:
    """What `TaskVectorMethod.combine` returns, into `block.out`. `selections`: by input, for those that are
    sparsified."""
    base, others = settings.base_index, settings.others
    every = Selection("all")
    chosen_by = [selections.get(i, every) for i in others]
    by_chance = [selection.rule in BY_CHANCE for selection in chosen_by]
    chosen = np.empty((len(others), len(block.out) if any(by_chance) else 0), np.uint8)
    for model_chosen, i, selection in zip(chosen, others, chosen_by, strict=True):
        if selection.rule in BY_CHANCE:
            bits = (selection.chosen or {}).get(block.start)
            if isinstance(bits, np.ndarray):
                model_chosen[:] = np.unpackbits(bits, count=len(model_chosen))
            else:
                _choose(block, base, i, selection, width, model_chosen)
    weights = [settings.per_input[i]["weight"] for i in others]
    total = math.fsum(weights)  # in float64, as in the plain form: where weights cancel, float32 would miss their sum
    normalize = settings.shared["normalize"]
    divisor = total if normalize and not elect and abs(total) >= NEARLY_ZERO else 1.0
    _combine(
        block.rows,
        block.dtype_codes,
        base,
        np.array(others),
        np.array(by_chance),
        chosen,
        np.array([selection.low for selection in chosen_by]),
        np.array([selection.high for selection in chosen_by]),
        np.array([selection.factor for selection in chosen_by], np.float32),
        np.array(weights, np.float32),
        elect,
        np.array(weights if normalize else [0.0] * len(weights), np.float32),
        np.float32(divisor),
        np.float32(settings.shared["lambda"] * settings.scale),
        block.out,
    )
    return block.out


def compile_parts(*, elect: bool) -> None:
    """What `_combine` calls after `load`."""
    subtract.compile((float32[::1], float32[::1]))
    _thin_between.compile((float32[::1], float32, float32))
    if elect:
        _elect.compile((float32[::1], float32[::1], float32[::1]))


def l1_norms(
    block: Block, base: int, other: int, selection: Selection, width: int
) -> tuple[float, float, Choices | None]:
    """(l1 norm of a task vector's stretch, of what is kept of it, and where chance decided, which elements are kept:
    uint8, or on a device bool)."""
    if block.device != "cpu":
        inputs = block.inputs
        delta = inputs[other] - inputs[base]
        kept = selection.mask(delta, block.start, width)
        return *l1_of(delta, kept), kept if selection.rule in BY_CHANCE else None
    if selection.rule in BY_CHANCE:
        chosen = np.empty(len(block.out), np.uint8)
        before, after = _choose(block, base, other, selection, width, chosen)
        return before, after, chosen
    before, after = _norms_between(
        block.rows, block.dtype_codes, base, other, selection.low, selection.high, len(block.out)
    )
    return before, after, None


def _choose(
    block: Block, base: int, other: int, selection: Selection, width: int, chosen: np.ndarray
) -> tuple[float, float]:
    """Chance decides: 1 for what is kept into `chosen`. Returns l1 norms before and after."""
    key = np.uint64(selection.key)
    if selection.rule == "random":
        return _choose_random(
            block.rows, block.dtype_codes, base, other, key, block.start, below(selection.density), chosen
        )
    return _choose_in_rows(block, base, other, selection, width, chosen)


def _choose_in_rows(
    block: Block, base: int, other: int, selection: Selection, width: int, chosen: np.ndarray
) -> tuple[float, float]:
    """Some rows at a time: their task vector, sorted, and what chance makes of it."""
    step = max(1, _SORTED // width) * width if width else 1
    memory = np.empty((2, min(step, len(chosen))), np.float32)
    bounds, before, after = selection.bounds(width), 0.0, 0.0
    for first in range(0, len(chosen), step):
        tile_chosen = chosen[first : first + step]
        delta, ordered = memory[0, : len(tile_chosen)], memory[1, : len(tile_chosen)]
        _difference(block.rows, block.dtype_codes, base, other, first, delta, ordered)
        bits = ordered.view(np.int32).reshape(-1, width)
        bits.sort(axis=1)  # magnitudes order like their bits
        norms = _choose_ranked(delta, bits, bounds, np.uint64(selection.key), block.start + first, tile_chosen)
        before, after = before + norms[0], after + norms[1]
    return before, after


@inner_kernel()
def _load_difference(
    rows: np.ndarray, dtype_codes: np.ndarray, base: int, other: int, first: int, start: np.ndarray, out: np.ndarray
) -> None:
    """A tile of a task vector, elements `first` on, into `out`; that of the base into `start`."""
    load(dtype_codes[base], rows[base], first, start)
    load(dtype_codes[other], rows[other], first, out)
    subtract(start, out)


@kernel()
def _difference(
    rows: np.ndarray, dtype_codes: np.ndarray, base: int, other: int, position: int, out: np.ndarray, sizes: np.ndarray
) -> None:
    """The task vector from element `position` on into `out`, its magnitudes into `sizes`."""
    tile = np.empty(TILE, np.float32)
    for first in range(0, out.size, TILE):
        part = stretch(out, np.float32, first, min(TILE, out.size - first))
        size, start = stretch(sizes, np.float32, first, part.size), stretch(tile, np.float32, 0, part.size)
        _load_difference(rows, dtype_codes, base, other, position + first, start, part)
        for i in range(part.size):
            size[i] = abs(part[i])


@inner_kernel(fastmath={"reassoc"})
def _l1(delta: np.ndarray) -> float:
    total = np.float64(0)
    for i in range(delta.size):
        total += np.float64(abs(delta[i]))
    return total


@inner_kernel(fastmath={"reassoc"})
def _l1_chosen(delta: np.ndarray, chosen: np.ndarray) -> float:
    total = np.float64(0)
    for i in range(delta.size):
        total += np.float64(abs(delta[i]) * np.float32(chosen[i]))
    return total


@inner_kernel()
def _thin_between(delta: np.ndarray, low: np.float32, high: np.float32) -> None:
    """A product instead of a choice: it goes through vector registers, and NaN and infinities stay, to be seen."""
    for i in range(delta.size):
        size = abs(delta[i])
        delta[i] = delta[i] * np.float32((size >= low) & ((size < high) | (size == _INFINITE)))


@kernel()
def _norms_between(
    rows: np.ndarray, dtype_codes: np.ndarray, base: int, other: int, low: np.float32, high: np.float32, count: int
) -> tuple[float, float]:
    start, delta, before, after = np.empty(TILE, np.float32), np.empty(TILE, np.float32), 0.0, 0.0
    for first in range(0, count, TILE):
        part = stretch(delta, np.float32, 0, min(TILE, count - first))
        _load_difference(rows, dtype_codes, base, other, first, stretch(start, np.float32, 0, part.size), part)
        before += _l1(part)
        _thin_between(part, low, high)
        after += _l1(part)
    return before, after


@kernel()
def _choose_random(
    rows: np.ndarray,
    dtype_codes: np.ndarray,
    base: int,
    other: int,
    key: np.uint64,
    position: int,
    bound: int,
    chosen: np.ndarray,
) -> tuple[float, float]:
    start, delta, before, after = np.empty(TILE, np.float32), np.empty(TILE, np.float32), 0.0, 0.0
    memory, more = np.empty(_DRAWS, np.uint32), np.empty(_DRAWS, np.uint32)
    upper, lower = np.uint16(bound >> 16), np.uint16(bound & 0xFFFF)
    for first in range(0, chosen.size, TILE):
        size = min(TILE, chosen.size - first)
        tile_chosen, part = stretch(chosen, np.uint8, first, size), stretch(delta, np.float32, 0, size)
        _load_difference(rows, dtype_codes, base, other, first, stretch(start, np.float32, 0, size), part)
        drawn = fill_halves(key, position + first, UPPER, memory, size)
        undecided_count = np.int32(0)
        for i in range(size):
            tile_chosen[i] = np.uint8(drawn[i] < upper)
        for i in range(size):
            undecided_count += np.int32(drawn[i] == upper)
        if undecided_count and lower:
            rest = fill_halves(key, position + first, LOWER, more, size)
            for i in range(size):
                if drawn[i] == upper and rest[i] < lower:
                    tile_chosen[i] = np.uint8(1)
        before += _l1(part)
        after += _l1_chosen(part, tile_chosen)
    return before, after


@kernel()
def _choose_ranked(
    delta: np.ndarray, ordered: np.ndarray, bounds: np.ndarray, key: np.uint64, position: int, chosen: np.ndarray
) -> tuple[float, float]:
    """Kept is what draws a number below the bound of its rank. Most numbers are below or above all bounds; for the
    others the rank is only compared with the one that the number asks for."""
    memory, more = np.empty(_DRAWS, np.uint32), np.empty(_DRAWS, np.uint32)
    numbers, positions = np.empty(TILE, np.uint32), np.empty(TILE, np.int32)
    width, before, after = ordered.shape[1], 0.0, 0.0
    for row in range(ordered.shape[0]):
        row_sizes = stretch(ordered, np.int32, row * width, width)
        for first in range(row * width, (row + 1) * width, TILE):
            size = min(TILE, (row + 1) * width - first)
            tile_chosen, drawn = stretch(chosen, np.uint8, first, size), stretch(numbers, np.uint32, 0, size)
            part, tile_bits = stretch(delta, np.float32, first, size), stretch(delta, np.int32, first, size)
            upper = fill_halves(key, position + first, UPPER, memory, drawn.size)
            lower = fill_halves(key, position + first, LOWER, more, drawn.size)
            for i in range(drawn.size):
                drawn[i] = np.uint32(upper[i]) << np.uint32(16) | np.uint32(lower[i])
            for i in range(drawn.size):
                tile_chosen[i] = np.uint8(drawn[i] < bounds[0])
            span, undecided_count = np.uint32(bounds[bounds.size - 1] - bounds[0]), 0
            for i in range(drawn.size):
                positions[undecided_count] = i
                undecided_count += np.int64(np.uint32(drawn[i] - bounds[0]) < span)
            undecided = stretch(positions, np.int32, 0, int(undecided_count))
            equal = _choose_by_rank(drawn, tile_bits, row_sizes, bounds, undecided, tile_chosen)
            for j in range(equal):
                _choose_equal(drawn[positions[j]], tile_bits, row_sizes, bounds, positions[j], tile_chosen)
            before += _l1(part)
            after += _l1_chosen(part, tile_chosen)
    return before, after


@inner_kernel()
def _first_above(number: Any, bounds: np.ndarray, slope: float) -> int:
    """The first rank, doubled, with a bound above `number`; there is one, and it is not the first of all."""
    needed = min(np.int64((np.int64(number) - np.int64(bounds[0])) * slope) + 1, bounds.size - 1)
    while bounds[needed] <= number:
        needed += 1
    while bounds[needed - 1] > number:
        needed -= 1
    return int(needed)


@inner_kernel()
def _choose_by_rank(
    drawn: np.ndarray,
    bits: np.ndarray,
    sizes: np.ndarray,
    bounds: np.ndarray,
    positions: np.ndarray,
    chosen: np.ndarray,
) -> int:
    """Decide `positions` where the number drawn lies between the bounds. Returns how many are left, moved to the front
    of `positions`: those as large as the one whose rank decides."""
    slope, equal = (bounds.size - 1) / max(1, np.int64(bounds[bounds.size - 1]) - np.int64(bounds[0])), 0
    for j in range(positions.size):
        i = positions[j]
        needed = _first_above(drawn[i], bounds, slope)
        magnitude, ceiling = np.int32(bits[i] & np.int32(0x7FFFFFFF)), sizes[(needed + 1) >> 1]
        chosen[i] = np.uint8(magnitude > ceiling)
        positions[equal] = i
        equal += np.int64(magnitude <= ceiling) & np.int64(magnitude >= sizes[needed >> 1])
    return int(equal)


@inner_kernel()
def _choose_equal(
    random_number: Any, bits: np.ndarray, sizes: np.ndarray, bounds: np.ndarray, position: int, chosen: np.ndarray
) -> None:
    """Equal magnitudes share the mean of their ranks."""
    magnitude = np.int32(bits[position] & np.int32(0x7FFFFFFF))
    doubled = _first_at_least(sizes, np.int64(magnitude)) + _first_at_least(sizes, np.int64(magnitude) + 1) - 1
    chosen[position] = np.uint8(random_number < bounds[doubled])


@inner_kernel()
def _first_at_least(sizes: np.ndarray, magnitude: int) -> int:
    """Where in ascending `sizes` the first as large as `magnitude` is. numba compiles numpy's `searchsorted` for half a
    second."""
    first, last = 0, sizes.size
    while first < last:
        middle = (first + last) >> 1
        if sizes[middle] < magnitude:
            first = middle + 1
        else:
            last = middle
    return int(first)


@kernel(error_model="numpy")
def _combine(
    rows: np.ndarray,
    dtype_codes: np.ndarray,
    base: int,
    models: np.ndarray,
    by_chance: np.ndarray,
    chosen: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    factors: np.ndarray,
    weights: np.ndarray,
    elect: bool,
    divisors: np.ndarray,
    divisor: np.float32,
    scale: np.float32,
    out: np.ndarray,
) -> None:
    tiles = np.empty((models.size + 3) * TILE, np.float32)  # of the base, of each task vector, and two for `_elect`
    for first in range(0, out.size, TILE):
        size = min(TILE, out.size - first)
        mixed, start = stretch(out, np.float32, first, size), stretch(tiles, np.float32, 0, size)
        load(dtype_codes[base], rows[base], first, start)
        for i in range(size):
            mixed[i] = np.float32(0)
        for m in range(models.size):
            delta, factor, weight = stretch(tiles, np.float32, (m + 1) * TILE, size), factors[m], weights[m]
            load(dtype_codes[models[m]], rows[models[m]], first, delta)
            subtract(start, delta)
            if by_chance[m]:
                tile_chosen = stretch(chosen, np.uint8, m * chosen.shape[1] + first, size)
                for i in range(size):
                    delta[i] = delta[i] * np.float32(tile_chosen[i])  # a product, so that NaN stays to be seen
            elif low[m] > np.float32(0) or high[m] < _INFINITE:
                _thin_between(delta, low[m], high[m])
            for i in range(size):
                value = delta[i] * factor * weight
                delta[i] = value
                mixed[i] += value
        if elect:
            _elect(tiles, divisors, mixed)
        for i in range(size):
            mixed[i] = start[i] + mixed[i] / divisor * scale


@inner_kernel(error_model="numpy")
def _elect(tiles: np.ndarray, divisors: np.ndarray, mixed: np.ndarray) -> None:
    """The sum of weighted task vectors in `mixed` to that of those which have its sign, divided by the sum of their
    `divisors` where that is not zero."""
    plus_one, zero, size = np.float32(1), np.float32(0), mixed.size
    sign = stretch(tiles, np.float32, (divisors.size + 1) * TILE, size)
    weight_sum = stretch(tiles, np.float32, (divisors.size + 2) * TILE, size)
    for i in range(size):
        sign[i] = -plus_one if mixed[i] < zero else plus_one
        mixed[i] = mixed[i] * zero  # zero, and NaN where the sum is NaN
        weight_sum[i] = zero
    for m in range(divisors.size):
        delta, weight = stretch(tiles, np.float32, (m + 1) * TILE, size), divisors[m]
        for i in range(size):
            toward = delta[i] * sign[i]  # positive where it has the elected sign
            agrees = plus_one if toward > zero else zero
            mixed[i] += toward * agrees
            weight_sum[i] += weight * agrees
    for i in range(size):
        mixed[i] = mixed[i] / (plus_one if weight_sum[i] == zero else weight_sum[i]) * sign[i]
