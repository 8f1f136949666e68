"""The fused kernels against the maths as written, exact selection against sorting, random streams against their source."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from weightsmith.methods.magnitude_threshold import kth_largest
from weightsmith.methods.method import Block, Settings
from weightsmith.methods.random_stream import below, fill_pages, random_numbers, stream_key
from weightsmith.methods.registry import METHODS
from weightsmith.methods.task_vectors import TaskVectorMethod

FAMILY = [name for name, method in METHODS.items() if isinstance(method, TaskVectorMethod)]


class Inputs:
    """Whole tensors as a scan, in blocks of a size of one's choice."""

    def __init__(self, tensors: torch.Tensor, width: int, step: int) -> None:
        self.tensors, self.width, self.step = tensors, width, step
        self.numel = tensors.shape[1]
        self.streams = tuple(stream_key(0, i, "w") for i in range(len(tensors)))

    def blocks(self) -> Iterator[Block]:
        for start in range(0, self.numel, self.step):
            yield Block.of(start, self.tensors[:, start : start + self.step].contiguous().numpy())

    def known_bound(self, base: int, number: int, k: int) -> None:
        return None

    def sample(self, count: int) -> np.ndarray:
        return self.tensors[:, :: max(1, self.numel // count)][:, :count].clone().numpy()


def run(name: str, scan: Inputs, chosen: Settings, form: str) -> torch.Tensor:
    method = METHODS[name]
    statistics = method.statistics(scan, chosen)
    return torch.cat([torch.as_tensor(getattr(method, form)(block, chosen, statistics)) for block in scan.blocks()])


def choose(name: str, weights: list[float], densities: list[float], **shared: object) -> Settings:
    method = METHODS[name]
    defaults = {p.name: p.default for p in method.parameters if p.scope == "shared"}
    own = {p.name: p.default for p in method.parameters if p.scope == "non_base"}
    per_input = [{}, *({**own, "weight": w, "density": d} for w, d in zip(weights, densities, strict=True))]
    return Settings(defaults | shared, tuple(per_input), 0)


def tensors(rows: int, width: int, models: int, seed: int, kind: str = "usual") -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(rows * width, generator=generator) * 0.02
    deltas = torch.randn(models, rows * width, generator=generator) * 0.002
    if kind == "zero":
        deltas[0] = 0
    if kind == "equal":
        deltas[:] = deltas[0].clone()
    if kind == "coarse":  # many equal magnitudes, as between float16 weights
        base, deltas = base.half().float(), (deltas * 500).round() / 500
    return torch.cat([base[None], base + deltas])


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(FAMILY), st.integers(1, 9), st.integers(1, 70), st.integers(1, 4), st.integers(0, 99),
    st.sampled_from(["usual", "zero", "equal", "coarse"]), st.booleans(), st.booleans(), st.data(),
)  # fmt: skip
def test_fused_is_the_maths_as_written(
    name: str,
    rows: int,
    width: int,
    models: int,
    seed: int,
    kind: str,
    normalize: bool,
    rescale: bool,
    data: st.DataObject,
) -> None:
    weights = data.draw(st.lists(st.floats(-2, 2).map(lambda w: round(w, 2)), min_size=models, max_size=models))
    densities = data.draw(st.lists(st.sampled_from([0.2, 0.5, 0.8, 1.0]), min_size=models, max_size=models))
    chosen = choose(name, weights, densities, normalize=normalize, rescale=rescale, **{"lambda": 0.7})
    inputs = tensors(rows, width, models, seed, kind)
    written = run(name, Inputs(inputs, width, width), chosen, "combine")
    fused = run(name, Inputs(inputs, width, 3 * width), chosen, "fused")
    sure = torch.ones(len(fused), dtype=torch.bool)
    if METHODS[name].elect:  # where the weighted sum cancels to a rounding the sign is anyone's
        deltas = (inputs[1:] - inputs[0]).abs().sum(0) * 4
        sure = (written - fused).abs() <= 1e-6 * deltas.clamp(min=1e-3)
        assert sure.float().mean() >= 0.9
    torch.testing.assert_close(fused[sure], written[sure], rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("name", FAMILY)
def test_block_size_changes_nothing(name: str) -> None:
    inputs, width = tensors(64, 96, 3, 1), 96
    chosen = choose(name, [0.5, 0.3, 0.4], [0.5, 0.3, 0.7])
    one, other = (run(name, Inputs(inputs, width, step * width), chosen, "fused") for step in (1, 13))
    assert torch.equal(one, other)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 300_000),
    st.floats(0.0001, 0.9999),
    st.sampled_from(["usual", "zero", "equal", "coarse"]),
    st.integers(0, 9),
)
def test_kth_largest_is_exact(count: int, share: float, kind: str, seed: int) -> None:
    inputs = tensors(1, count, 1, seed, kind)
    k = max(1, int(share * count))
    (bound,) = kth_largest(Inputs(inputs, count, 70_000), 0, [(1, k)])
    magnitudes = (inputs[1] - inputs[0]).abs()
    expected = magnitudes.sort(descending=True).values[k - 1]
    assert float(bound.magnitude) == float(expected)
    assert bound.kept == int((magnitudes >= expected).sum())


def test_kth_largest_where_the_sample_misleads() -> None:
    """The sample sees every tenth element, and only those are small."""
    inputs = torch.ones(2, 800_000)
    inputs[0] = 0
    inputs[1] = torch.linspace(1, 2, 800_000)
    scan = Inputs(inputs, 800_000, 65_536)
    scan.sample = lambda count: np.stack([np.zeros(count, np.float32), np.linspace(0, 1e-3, count, dtype=np.float32)])  # type: ignore[method-assign]
    (bound,) = kth_largest(scan, 0, [(1, 300_000)])
    assert float(bound.magnitude) == float(inputs[1].sort(descending=True).values[299_999])


def test_philox_is_the_published_one() -> None:
    """Known answers of the Random123 distribution for philox4x32-10 with counter and key zero; numpy knows no 32-bit form."""
    words = np.empty(32, np.uint32)
    fill_pages(np.uint64(0), 0, 0, words)
    assert [hex(n) for n in words[::8]] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 10_000), st.integers(0, 70))
def test_a_stream_is_the_same_from_anywhere(key: int, start: int, count: int) -> None:
    assert np.array_equal(random_numbers(key, start, count), random_numbers(key, 0, start + count)[start:])


def test_random_numbers_are_uniform_and_independent() -> None:
    a, b = (random_numbers(stream_key(0, model, "w"), 0, 1 << 20).astype(np.float64) / 2**32 for model in (0, 1))
    for numbers in (a, b):
        assert abs(numbers.mean() - 0.5) < 5 * (1 / 12) ** 0.5 / 1024
        counts, _ = np.histogram(numbers, 64, (0, 1))
        assert ((counts - 16384) ** 2 / 16384).sum() < 63 + 6 * (2 * 63) ** 0.5
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / 1024 and abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 5 / 1024
    assert below(0.0) == 0 and below(1.0) == 2**32 - 1


@pytest.mark.parametrize("name", FAMILY)
def test_not_a_number_is_not_hidden(name: str) -> None:
    inputs = tensors(4, 64, 2, 3)
    inputs[1, 70] = torch.nan
    merged = run(name, Inputs(inputs, 64, 128), choose(name, [0.5, 0.5], [0.5, 0.5], rescale=False), "fused")
    assert merged[70].isnan() and int(merged.isnan().sum()) == 1
