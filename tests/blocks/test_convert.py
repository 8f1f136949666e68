"""Conversions by bits against torch: every float16, and float32 of every kind."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numba
import numpy as np
import pytest
import torch

from weightsmith.blocks.convert import DTYPE_CODES, from_bfloat16, from_float16, load, store, to_bfloat16, to_float16
from weightsmith.blocks.numba_support import half_precision
from weightsmith.checkpoint.dtypes import as_array, numpy_dtypes, promoted, torch_dtypes

EVERY_HALF = np.arange(1 << 16, dtype=np.uint16)


@numba.njit
def _widen_all(stored: np.ndarray, out: np.ndarray) -> None:
    for i in range(out.size):
        out[i] = half_precision.widen_by_bits(stored[i])


@numba.njit
def _narrow_all(values: np.ndarray, out: np.ndarray) -> None:
    for i in range(values.size):
        out[i] = half_precision.narrow_by_bits(values[i])


@pytest.fixture(scope="module")
def floats() -> np.ndarray:
    """Random bits, all float16, what lies halfway between two of them, and the neighbours of that."""
    halves = torch.from_numpy(EVERY_HALF.view(np.int16)).view(torch.float16).float().numpy()
    halves = np.sort(halves[np.isfinite(halves)])
    between = (halves[:-1].astype(np.float64) + halves[1:]) / 2
    between = between.astype(np.float32)
    beside = [np.nextafter(between, np.float32(way)) for way in (-np.inf, np.inf)]
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1 << 20, dtype=np.uint32).view(np.float32)
    return np.concatenate([bits, halves, between, *beside, np.float32([65519.996, 65520, np.inf, -np.inf])])


def same(found: np.ndarray, expected: np.ndarray, nan: np.ndarray) -> None:
    """Bit for bit, but for NaN, which only has to be one."""
    assert np.array_equal(found[~nan], expected[~nan])


@pytest.mark.parametrize("widen", [from_float16, _widen_all], ids=["used", "by bits"])
def test_float16_to_float32(widen: Callable[[np.ndarray, np.ndarray], None]) -> None:
    out = np.empty(len(EVERY_HALF), np.float32)
    widen(EVERY_HALF, out)
    expected = torch.from_numpy(EVERY_HALF.view(np.int16)).view(torch.float16).float().numpy()
    same(out.view(np.uint32), expected.view(np.uint32), np.isnan(expected))
    assert np.array_equal(np.isnan(out), np.isnan(expected))


@pytest.mark.parametrize("narrow", [to_float16, _narrow_all], ids=["used", "by bits"])
def test_float32_to_float16(narrow: Callable[[np.ndarray, np.ndarray], None], floats: np.ndarray) -> None:
    out = np.empty(len(floats), np.uint16)
    narrow(floats, out)
    expected = torch.from_numpy(floats).half().view(torch.int16).numpy().view(np.uint16)
    same(out, expected, np.isnan(floats))
    assert np.isnan(out[np.isnan(floats)].view(np.float16)).all()


def test_bfloat16_both_ways(floats: np.ndarray) -> None:
    out, back = np.empty(len(floats), np.uint16), np.empty(len(floats), np.float32)
    to_bfloat16(floats, out)
    from_bfloat16(out, back)
    expected = torch.from_numpy(floats).bfloat16()
    same(out, expected.view(torch.int16).numpy().view(np.uint16), np.isnan(floats))
    same(back.view(np.uint32), expected.float().numpy().view(np.uint32), np.isnan(floats))
    assert np.array_equal(np.isnan(back), np.isnan(floats))


@pytest.mark.parametrize(("round_to", "dtype"), product(("F32", "F16", "BF16"), ("F32", "F16", "BF16", "F64")))
def test_store_rounds_twice_and_load_reads_it(round_to: str, dtype: str) -> None:
    values = np.random.default_rng(1).standard_normal(5000).astype(np.float32)
    expected = torch.from_numpy(values).to(torch_dtypes()[round_to]).to(torch_dtypes()[dtype])
    size = numpy_dtypes()[dtype].itemsize
    stored = np.empty(5000 * size, np.uint8)
    odd, largest = store(values.copy(), DTYPE_CODES[round_to], DTYPE_CODES[dtype], stored)
    assert odd == 0 and np.uint32(largest).view(np.float32) == np.abs(values).max()
    assert np.array_equal(stored, as_array(expected).view(np.uint8))
    if dtype != "F64":
        out = np.empty(4000, np.float32)
        load(DTYPE_CODES[dtype], stored, 1000, out)
        assert np.array_equal(out, expected.float().numpy()[1000:])


def test_store_counts_what_is_no_number() -> None:
    values = np.ones(4100, np.float32)
    values[[3, 2500, 4099]] = [np.nan, np.inf, -np.inf]
    values[7] = -8
    odd, largest = store(values, DTYPE_CODES["F32"], DTYPE_CODES["F16"], np.empty(8200, np.uint8))
    assert odd == 3 and np.uint32(largest).view(np.float32) == 8


def test_promotion_is_that_of_torch() -> None:
    """Of the dtypes that tensors are merged in; 8-bit floats and other unsigned integers are decoded first."""
    decoded = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "U16", "U32", "U64")
    dtypes = {name: dtype for name, dtype in torch_dtypes().items() if name not in decoded}
    for a, b in product(dtypes, dtypes):
        assert dtypes[promoted([a, b])] == torch.promote_types(dtypes[a], dtypes[b]), (a, b)
