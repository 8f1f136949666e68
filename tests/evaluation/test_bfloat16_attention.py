"""Attention by matrix products gives what torch's attention gives in float32, to the rounding of bfloat16."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import examples
from weightsmith.evaluation.backends.transformers.bfloat16_attention import NAME, _attention
from weightsmith.evaluation.backends.transformers.transformers_backend import TransformersBackend
from weightsmith.evaluation.request import Request
from weightsmith.models.open_model import open_model

MODULE: Any = SimpleNamespace(is_causal=True, num_key_value_groups=1)


@given(
    rows=st.integers(2, 700),
    before=st.integers(0, 300),
    kept=st.sampled_from([1, 2, 6]),
    group=st.sampled_from([1, 3]),
    size=st.sampled_from([16, 64]),
    seed=st.integers(0, 99),
    causal=st.booleans(),
)
@examples(40)
def test_it_is_attention(rows: int, before: int, kept: int, group: int, size: int, seed: int, causal: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    before = 0 if causal else before

    def states(heads: int, positions: int) -> torch.Tensor:
        return torch.randn(1, heads, positions, size, generator=generator).bfloat16()

    query, key, value = states(kept * group, rows), states(kept, before + rows), states(kept, before + rows)
    seen = torch.ones(rows, before + rows, dtype=torch.bool).tril(before)
    if not causal:
        seen &= torch.rand(seen.shape, generator=generator) < 0.5
        seen[:, 0] = True
    mask = torch.zeros(1, 1, *seen.shape, dtype=torch.bfloat16).masked_fill_(~seen, torch.finfo(torch.bfloat16).min)
    result, _ = _attention(MODULE, query, key, value, None if causal else mask, scaling=0.1)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query.float(), key.float(), value.float(), attn_mask=seen, scale=0.1, enable_gqa=True
    )
    assert torch.allclose(result.float(), expected.transpose(1, 2), atol=0.05)


def test_a_bfloat16_model_computes_by_it(chat_models: Path) -> None:
    half = TransformersBackend(open_model(str(chat_models / "a")), precision="bfloat16")
    full = TransformersBackend(open_model(str(chat_models / "a")))
    assert half._model.config._attn_implementation == NAME and half.branches
    assert full._model.config._attn_implementation == "sdpa"
    random = np.random.default_rng(0)
    stem = random.integers(17, 4000, 300, dtype=np.int32)
    ends = [random.integers(17, 4000, length, dtype=np.int32) for length in (3, 5, 40)]
    requests = [Request(np.concatenate([stem, end]), len(end)) for end in ends]
    result = [
        score.log_likelihood / request.scored for score, request in zip(half.score(requests), requests, strict=True)
    ]
    right = [
        score.log_likelihood / request.scored for score, request in zip(full.score(requests), requests, strict=True)
    ]
    assert result == pytest.approx(right, abs=0.1)
