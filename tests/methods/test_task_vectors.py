"""The fused kernels against the maths as written, exact selection against sorting, random streams against their
source."""

from __future__ import annotations

from unittest.mock import patch

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from tests.fuzzing import examples
from tests.methods.scan_of import WholeTensors, run
from weightsmith.blocks.kth_largest import kth_largest
from weightsmith.blocks.random_stream import below, fill_pages, random_numbers, stream_key
from weightsmith.methods.registry import METHODS
from weightsmith.methods.task_vectors.task_vector_method import TaskVectorMethod
from weightsmith.methods.tensor_settings import Settings

FAMILY = [name for name, method in METHODS.items() if isinstance(method, TaskVectorMethod)]


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


UNIT = 2.0**-24  # by how much rounding to float32 may change a number, as a share of it


def exact_merge(name: str, inputs: torch.Tensor, width: int, chosen: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """(the merge in float64, by how much each element may differ from it in float32); infinite where rounding decides
    on the sign that is elected or on which weights take part."""
    method, base = METHODS[name], inputs[0].double()
    selections = method.statistics(WholeTensors(inputs, width, width), chosen).values.get("selections", {})
    weights = [chosen.per_input[i]["weight"] for i in chosen.others]
    terms = []
    for i, weight in zip(chosen.others, weights, strict=True):
        delta = inputs[i].double() - base
        if i in selections:
            delta = delta * selections[i].mask(inputs[i] - inputs[0], 0, width) * selections[i].factor
        terms.append(delta * weight)
    count, zero = len(terms), torch.zeros_like(base)
    roundings = count + 5  # of a term: its difference, factor and weight with two products; then the additions
    total, size = sum(terms, zero), sum((term.abs() for term in terms), zero)
    unsure = torch.zeros_like(base, dtype=torch.bool)
    if method.elect:
        unsure |= (total.abs() <= roundings * UNIT * size) & (size > 0)
        sign = torch.where(total >= 0, 1.0, -1.0)
        agree = [(term.sign() == sign).double() for term in terms]
        total = sum((t * a for t, a in zip(terms, agree, strict=True)), zero)
        size = total.abs()
        divisor = sum((w * a for w, a in zip(weights, agree, strict=True)), zero)
        weight_size = sum((abs(w) * a for w, a in zip(weights, agree, strict=True)), zero)
        unsure |= (divisor.abs() <= count * UNIT * weight_size) & (weight_size > 0)
        divisor = torch.where(divisor == 0, 1.0, divisor)
    else:
        divisor, weight_size = (
            zero + (sum(weights) if abs(sum(weights)) >= 1e-8 else 1.0),
            zero + sum(map(abs, weights)),
        )
    error = roundings * UNIT * size
    if chosen.shared["normalize"]:
        total, error = total / divisor, error / divisor.abs()
        error = error + total.abs() * UNIT * (1 + count * weight_size / divisor.abs())
    scale = chosen.shared["lambda"]
    merged = base + total * scale
    error = abs(scale) * (error + 3 * UNIT * total.abs()) + UNIT * merged.abs() + 2.0**-149
    return merged, error.masked_fill(unsure, torch.inf)


@examples(150)
@given(
    st.sampled_from(FAMILY),
    st.integers(1, 9),
    st.integers(1, 70),
    st.integers(1, 4),
    st.integers(0, 99),
    st.sampled_from(["usual", "zero", "equal", "coarse"]),
    st.booleans(),
    st.booleans(),
    st.data(),
)
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
    decided = assert_right(name, tensors(rows, width, models, seed, kind), width, chosen)
    if kind == "usual" and min(weights) > 0:
        assert decided.float().mean() >= 0.9


@pytest.mark.parametrize("name", FAMILY)
def test_weights_that_cancel(name: str) -> None:
    """Found by chance once: their sum of 0.02 multiplies what float32 rounds away by 50."""
    chosen = choose(name, [0.65, -0.66, -0.66, 0.69], [1.0] * 4, normalize=True, rescale=False)
    assert_right(name, tensors(9, 70, 4, 7), 70, chosen)


def assert_right(name: str, inputs: torch.Tensor, width: int, chosen: Settings) -> torch.Tensor:
    """Both forms of a method are as near to float64 as float32 allows, and so to each other. Returns for which elements
    that says anything."""
    exact, error = exact_merge(name, inputs, width, chosen)
    written = run(name, WholeTensors(inputs, width, width), chosen, "combine")
    fused = run(name, WholeTensors(inputs, width, 3 * width), chosen, "fused")
    for merged in (written, fused):
        off = (merged.double() - exact).abs() / error
        assert off.max() <= 1, f"off by {off.max():.3g} times what rounding explains"
    assert (fused.double() - written).abs().le(2 * error).all()
    return error.isfinite()


@pytest.mark.parametrize("name", FAMILY)
def test_block_size_changes_nothing(name: str) -> None:
    inputs, width = tensors(64, 96, 3, 1), 96
    chosen = choose(name, [0.5, 0.3, 0.4], [0.5, 0.3, 0.7])
    one, other = (run(name, WholeTensors(inputs, width, step * width), chosen, "fused") for step in (1, 13))
    assert torch.equal(one, other)


@examples(80)
@given(
    st.integers(1, 300_000),
    st.floats(0.0001, 0.9999),
    st.sampled_from(["usual", "zero", "equal", "coarse"]),
    st.integers(0, 9),
    st.sampled_from([0, 1 << 20]),
)
def test_kth_largest_is_exact(count: int, share: float, kind: str, seed: int, held: int) -> None:
    inputs = tensors(1, count, 1, seed, kind)
    k = max(1, int(share * count))
    with patch("weightsmith.blocks.kth_largest._HELD", held):
        (bound,) = kth_largest(WholeTensors(inputs, count, 70_000), 0, [(1, k)])
    magnitudes = (inputs[1] - inputs[0]).abs()
    expected = magnitudes.sort(descending=True).values[k - 1]
    assert float(bound.magnitude) == float(expected)
    assert bound.kept == int((magnitudes >= expected).sum())


def test_kth_largest_where_the_sample_misleads() -> None:
    """The sample sees every tenth element, and only those are small."""
    count = 2_000_000
    inputs = torch.stack([torch.zeros(count), torch.linspace(1, 2, count)])
    scan = WholeTensors(inputs, count, 65_536)
    scan.sample = lambda count: np.stack([np.zeros(count, np.float32), np.linspace(0, 1e-3, count, dtype=np.float32)])  # type: ignore[method-assign]
    (bound,) = kth_largest(scan, 0, [(1, 300_000)])
    assert float(bound.magnitude) == float(inputs[1].sort(descending=True).values[299_999])


def test_philox_is_the_published_one() -> None:
    """Known answers of the Random123 distribution for philox4x32-10 with counter and key zero; numpy knows no 32-bit
    form."""
    words = np.empty(32, np.uint32)
    fill_pages(np.uint64(0), 0, 0, words)
    assert [hex(n) for n in words[::8]] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]


@examples(60)
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
    merged = run(name, WholeTensors(inputs, 64, 128), choose(name, [0.5, 0.5], [0.5, 0.5], rescale=False), "fused")
    assert merged[70].isnan() and int(merged.isnan().sum()) == 1
