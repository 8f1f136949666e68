"""Packed weights to float32: (code - zero point) * scale, for codes of 2, 4 or 8 bits."""

from __future__ import annotations

import numpy as np

from weightsmith.blocks.convert import copy
from weightsmith.blocks.numba_support.compile import kernel


@kernel()
def decode_rows(
    packed: np.ndarray,
    bits: int,
    high_first: bool,
    values: np.ndarray,
    scales: np.ndarray,
    zeros: np.ndarray,
    first_row: int,
    rows_per_scale: int,
    columns_per_scale: int,
    group_of: np.ndarray,
    out: np.ndarray,
) -> None:
    """Codes packed along rows: uint8 [n, bytes] to float32 [n, columns].

    `values`: what each code means, float32 [2 ** bits]; `scales` and `zeros`: float32 [scale rows, groups], beginning
    with the scale row of `first_row`, which is the number of the first of these rows in its matrix. A column's group is
    `group_of[column]`, or, where that is empty, column // columns_per_scale. `high_first`: of two 4-bit codes in a
    byte, the upper four bits are the first.
    """
    count, width = out.shape
    codes = np.empty(width, np.uint8)
    groups = scales.shape[1]
    for i in range(count):
        row = packed[i]
        if bits == 4:
            first, second = (4, 0) if high_first else (0, 4)
            for j in range(width // 2):
                codes[2 * j] = (row[j] >> first) & 15
                codes[2 * j + 1] = (row[j] >> second) & 15
            if width % 2:
                codes[width - 1] = (row[width // 2] >> first) & 15
        elif bits == 2:
            for j in range(width):
                codes[j] = (row[j // 4] >> (2 * (j % 4))) & 3
        else:
            copy(row[:width], codes)
        scale_row = (first_row + i) // rows_per_scale - first_row // rows_per_scale
        line = out[i]
        if group_of.size:
            for j in range(width):
                group = group_of[j]
                line[j] = (values[codes[j]] - zeros[scale_row, group]) * scales[scale_row, group]
        else:
            for group in range(groups):
                scale, zero = scales[scale_row, group], zeros[scale_row, group]
                for j in range(group * columns_per_scale, min(width, (group + 1) * columns_per_scale)):
                    line[j] = (values[codes[j]] - zero) * scale


@kernel()
def decode_across(
    packed: np.ndarray,
    byte_of: np.ndarray,
    shift_of: np.ndarray,
    values: np.ndarray,
    scales: np.ndarray,
    zeros: np.ndarray,
    scale_row_of: np.ndarray,
    columns_per_scale: int,
    out: np.ndarray,
) -> None:
    """Codes packed across rows: row i of `out`, float32 [n, columns], is in the row `byte_of[i]` of `packed`,
    uint8 [bytes, columns], above bit `shift_of[i]`; its scales are the row `scale_row_of[i]` of `scales`, its zero
    points that of `zeros`, float32 [scale rows, columns / columns_per_scale]."""
    mask = np.uint8(values.size - 1)
    for i in range(out.shape[0]):
        row, shift, line = packed[byte_of[i]], np.uint8(shift_of[i]), out[i]
        scale, zero = scales[scale_row_of[i]], zeros[scale_row_of[i]]
        if columns_per_scale == 1:
            for j in range(line.size):
                line[j] = (values[(row[j] >> shift) & mask] - zero[j]) * scale[j]
        else:
            for group in range(scale.size):
                for j in range(group * columns_per_scale, min(line.size, (group + 1) * columns_per_scale)):
                    line[j] = (values[(row[j] >> shift) & mask] - zero[group]) * scale[group]
