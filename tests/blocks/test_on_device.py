"""What devices do in torch, against the kernels that do it on the processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weightsmith.blocks.block import Block
from weightsmith.blocks.convert import BF16, F16, F32, F64, store
from weightsmith.blocks.kth_largest import kth_largest
from weightsmith.blocks.on_device.device_random import device_random_numbers
from weightsmith.blocks.on_device.device_ranks import doubled_ranks
from weightsmith.blocks.on_device.device_store import device_store
from weightsmith.blocks.random_stream import random_numbers, stream_key
from weightsmith.blocks.weighted_sum import dot_products

CPU = torch.device("cpu")


class Blocks:
    """A scan over float32 [models, n] in blocks of 1,000."""

    def __init__(self, values: np.ndarray, device: str) -> None:
        self.values, self.numel, self.device = values, values.shape[1], device

    def known_bound(self, base: int, number: int, k: int) -> None:
        return None

    def sample(self, count: int) -> np.ndarray:
        return self.values[:, :: max(1, self.numel // count)]

    def blocks(self):
        for start in range(0, self.numel, 1000):
            block = Block.of(start, np.ascontiguousarray(self.values[:, start : start + 1000]))
            block.device = self.device
            yield block


@settings(deadline=None)  # the first one compiles
@given(st.integers(0, 2**64 - 1), st.one_of(st.integers(0, 300), st.just(2**33 + 5)), st.integers(1, 500))
def test_the_same_random_numbers(key: int, start: int, count: int) -> None:
    drawn = device_random_numbers(key, start, count, CPU)
    assert np.array_equal(drawn.numpy(), random_numbers(key, start, count).astype(np.int64))


def test_pieces_join(monkeypatch) -> None:
    monkeypatch.setattr("weightsmith.blocks.on_device.device_random._PIECE", 2)
    drawn = device_random_numbers(stream_key(0, 1, "w"), 70, 1000, CPU)
    assert np.array_equal(drawn.numpy(), random_numbers(stream_key(0, 1, "w"), 70, 1000).astype(np.int64))


@given(st.lists(st.sampled_from([0.0, 1.0, 2.5, 7.0, float("inf"), float("nan")]), min_size=1, max_size=12))
def test_ranks_count_what_is_smaller_and_share_what_is_equal(row: list[float]) -> None:
    place = {value: number for number, value in enumerate([0.0, 1.0, 2.5, 7.0, float("inf")])}
    keys = [place.get(value, 9) for value in row]
    expected = [sum(k < key for k in keys) + sum(k <= key for k in keys) - 1 for key in keys]
    assert doubled_ranks(torch.tensor([row, row])).tolist() == [expected] * 2


@pytest.mark.parametrize("dtype_code", [F32, F16, BF16, F64])
@pytest.mark.parametrize("round_to", [F32, F16, BF16])
def test_the_same_bytes_are_stored(round_to: int, dtype_code: int) -> None:
    generator = np.random.default_rng(0)
    values = (generator.standard_normal(5001) * 10.0 ** generator.integers(-9, 4, 5001)).astype(np.float32)
    values[:6] = [0.0, -0.0, np.inf, -np.inf, 65504.0, 1e-8]
    ours, theirs = (np.zeros(len(values) * 8, np.uint8) for _ in range(2))
    size = len(values) * {F32: 4, F16: 2, BF16: 2, F64: 8}[dtype_code]
    said = device_store(torch.from_numpy(values.copy()), round_to, dtype_code, ours[:size])
    assert said == store(values.copy(), round_to, dtype_code, theirs[:size]) and said[0] == 2
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("spread", ["normal", "few values", "wide"])
def test_the_same_bounds(share: float, spread: str, monkeypatch) -> None:
    monkeypatch.setattr("weightsmith.blocks.kth_largest._HELD", 100)
    monkeypatch.setattr("weightsmith.blocks.kth_largest._SAMPLE", 500)
    generator = np.random.default_rng(1)
    values = generator.standard_normal((3, 7001)).astype(np.float32)
    if spread == "few values":
        values = np.round(values)
    if spread == "wide":
        values = (values * 10.0 ** generator.integers(-30, 30, values.shape)).astype(np.float32)
    queries = [(1, max(1, int(share * 7001))), (2, 17), (2, 5000)]
    assert kth_largest(Blocks(values, "cpu:0"), 0, queries) == kth_largest(Blocks(values, "cpu"), 0, queries)


@pytest.mark.parametrize("minus", [None, 0, 2])
def test_the_same_products(minus: int | None, monkeypatch) -> None:
    monkeypatch.setattr("weightsmith.blocks.on_device.device_statistics._PIECE", 300)
    values = np.random.default_rng(2).standard_normal((3, 2500)).astype(np.float32)
    on_device, by_kernel = (dot_products(Blocks(values, device), minus) for device in ("cpu:0", "cpu"))
    np.testing.assert_allclose(on_device, by_kernel, rtol=1e-12, atol=1e-12)
