"""The k-th largest magnitude of task vectors, of which large ones are never held whole: exact, in one pass, without
sorting.

A non-negative float32 orders like the integer with the same bits. A sample brackets the one that is looked for; the
pass counts what lies above the bracket, and how often each integer within it occurs. Where the sample misled, the whole
range is counted instead, in two passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from weightsmith.blocks.block import Scan
from weightsmith.blocks.convert import load
from weightsmith.blocks.numba_support.compile import inner_kernel, kernel
from weightsmith.blocks.numba_support.stretch import stretch
from weightsmith.blocks.on_device.device_statistics import count_magnitudes
from weightsmith.blocks.threshold import Threshold
from weightsmith.blocks.weighted_sum import TILE

_SAMPLE = 1 << 16
_HELD = 1 << 20  # elements of a tensor that is read whole and partitioned: counting takes longer


_WIDEST = 1 << 22  # integers in a bracket; float32 has 2**23 in one power of two


_SIGMAS = 5.0


_TOP = 1 << 31


def kth_largest(scan: Scan, base: int, queries: Sequence[tuple[int, int]]) -> list[Threshold]:
    """The bound, for each (input, k), that keeps the k largest magnitudes of input minus base; 1 <= k <=
    `scan.numel`."""
    known = [bound for i, k in queries if (bound := scan.known_bound(base, i, k))]
    if len(known) == len(queries):
        return known
    sample = scan.sample(scan.numel if scan.numel <= _HELD else _SAMPLE)
    if sample.shape[1] == scan.numel:
        return [_exact(sample[i] - sample[base], k) for i, k in queries]
    ranges = [_bracket(sample[i] - sample[base], k / scan.numel) for i, k in queries]
    counted = _count(scan, base, [i for i, _ in queries], ranges)
    result: list[Threshold | None] = []
    for (_, k), (low, shift, _), (above, counts) in zip(queries, ranges, counted, strict=True):
        result.append(_pick(low, shift, above, counts, k) if shift == 0 else None)
    missed = [j for j, threshold in enumerate(result) if threshold is None]
    if missed:
        missed_queries = [queries[j] for j in missed]
        coarse = _count(scan, base, [i for i, _ in missed_queries], [(0, 9, _TOP >> 9)] * len(missed_queries))
        buckets = [
            _pick(0, 9, above, counts, k) for (_, k), (above, counts) in zip(missed_queries, coarse, strict=True)
        ]
        fine = [(bucket.bits, 0, 1 << 9) for bucket in buckets if bucket]
        counted = _count(scan, base, [i for i, _ in missed_queries], fine)
        for j, (_, k), (low, _, _), (above, counts) in zip(missed, missed_queries, fine, counted, strict=True):
            result[j] = _pick(low, 0, above, counts, k)
    return [threshold for threshold in result if threshold is not None]


def _exact(delta: np.ndarray, k: int) -> Threshold:
    """The threshold of a tensor that is at hand as a whole."""
    bits = np.abs(delta).view(np.int32)
    bound = int(np.partition(bits, len(bits) - k)[len(bits) - k])
    return Threshold(bound, int(np.count_nonzero(bits >= bound)), k)


def _bracket(delta: np.ndarray, share: float) -> tuple[int, int, int]:
    """(lowest bits, shift, number of integers) of a range that holds the bound, most likely."""
    bits = np.sort(np.abs(delta).view(np.int32))
    n = len(bits)
    spread = _SIGMAS * math.sqrt(share * (1 - share) / n) + 2 / n
    low = int(bits[max(0, math.floor((1 - share - spread) * n))])
    high = int(bits[min(n - 1, math.ceil((1 - share + spread) * n))])
    if (1 - share - spread) * n < 1:
        low = 0
    if (1 - share + spread) * n > n - 2:
        high = _TOP - 1
    count = high - low + 1
    return (low, 0, count) if count <= _WIDEST else (low, 1, 1)  # shift 1: too wide, counted anew


def _count(
    scan: Scan, base: int, inputs: Sequence[int], ranges: Sequence[tuple[int, int, int]]
) -> list[tuple[int, np.ndarray]]:
    """Count, for each input, how many magnitudes lie above its range, and how many on each step within it. Ranges of
    one input follow each other."""
    sizes = np.array([count for _, _, count in ranges])
    ends = np.cumsum(sizes)
    counts, above = np.zeros(ends[-1], np.int64), np.zeros(len(ranges), np.int64)
    lows, shifts = (np.array([bracket[part] for bracket in ranges]) for part in (0, 1))
    models = np.array(inputs)
    for block in scan.blocks():
        if block.device == "cpu":
            _count_block(
                block.rows, block.dtype_codes, base, models, lows, sizes, shifts, len(block.out), counts, above
            )
            continue
        for j, (higher, within) in enumerate(count_magnitudes(block, base, models, lows, sizes, shifts)):
            above[j] += higher
            counts[ends[j] - sizes[j] : ends[j]] += within
    return [(int(above[j]), counts[ends[j] - sizes[j] : ends[j]]) for j in range(len(ranges))]


@kernel()
def _count_block(
    rows: np.ndarray,
    dtype_codes: np.ndarray,
    base: int,
    models: np.ndarray,
    lows: np.ndarray,
    steps: np.ndarray,
    shifts: np.ndarray,
    size: int,
    counts: np.ndarray,
    above: np.ndarray,
) -> None:
    start_tile, tile, within = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.uint8)
    for first in range(0, size, TILE):
        tile_size, offset = min(TILE, size - first), 0
        part, start = stretch(tile, np.float32, 0, tile_size), stretch(start_tile, np.float32, 0, tile_size)
        bits = stretch(tile, np.int32, 0, tile_size)
        load(dtype_codes[base], rows[base], first, start)
        for j in range(models.size):
            if j == 0 or models[j] != models[j - 1]:
                load(dtype_codes[models[j]], rows[models[j]], first, part)
                for i in range(tile_size):
                    part[i] = abs(part[i] - start[i])
            model_counts = stretch(counts, np.int64, offset, steps[j])
            offset += steps[j]
            above[j] += _count_tile(bits, np.int32(lows[j]), shifts[j], model_counts, within)


@inner_kernel()
def _count_tile(bits: np.ndarray, bottom: np.int32, shift: int, counts: np.ndarray, within: np.ndarray) -> int:
    """`within`: uint8, a multiple of eight of them, as memory. Few elements lie within, so eight are skipped at a
    time."""
    top, span, higher = np.int32(bottom + (counts.size << shift) - 1), np.uint32(counts.size << shift), 0
    for i in range(bits.size):
        higher += np.int32(bits[i] > top)
    for i in range(bits.size):
        within[i] = np.uint8(np.uint32(bits[i] - bottom) < span)  # what lies below has wrapped around
    words = stretch(within, np.uint64, 0, within.size // 8)
    for word in range((bits.size + 7) // 8):
        if words[word]:
            for i in range(8 * word, min(8 * word + 8, bits.size)):
                if within[i]:
                    counts[np.uint32(bits[i] - bottom) >> np.uint32(shift)] += 1
    return int(higher)


def _pick(low: int, shift: int, above: int, counts: np.ndarray, k: int) -> Threshold | None:
    """The step that holds the k-th largest; None: it is not in the range."""
    from_top = above + np.cumsum(counts[::-1])
    if k <= above or from_top[-1] < k:
        return None
    index = int(np.searchsorted(from_top, k))
    return Threshold(low + ((len(counts) - 1 - index) << shift), int(from_top[index]), k)
