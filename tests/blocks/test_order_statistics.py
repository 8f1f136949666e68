"""Bounds of scores that come in blocks, against sorting them."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightsmith.blocks.order_statistics import kth_largest_score

SCORES = st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=60)


@given(SCORES, st.data())
def test_the_bound_is_the_one_that_sorting_finds(scores: list[float], data: st.DataObject) -> None:
    values = np.array(scores, np.float32)
    ranks = data.draw(st.lists(st.integers(1, len(values)), min_size=1, max_size=3))
    cut = data.draw(st.integers(0, len(values)))
    bounds = kth_largest_score(lambda: [torch.from_numpy(part) for part in (values[:cut], values[cut:])], ranks)
    ordered = np.sort(values)[::-1]
    for k, bound in zip(ranks, bounds, strict=True):
        assert bound.value == ordered[k - 1]
        assert bound.ties == np.count_nonzero(values >= ordered[k - 1]) - k
