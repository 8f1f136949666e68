"""Views of all experts in one tensor: straight, and as files have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weightsmith.checkpoint.checkpoint import TensorInfo
from weightsmith.checkpoint.views import expert_layout
from weightsmith.checkpoint.views.expert_layout import ExpertLayout, arranged, straight


class Memory:
    """A checkpoint of one tensor, float32."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values.reshape(-1)
        self.tensors = {"x": TensorInfo(values.shape, "F32")}

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        out[:] = self.values[start:stop]


def _layout(**sizes: int | bool) -> ExpertLayout:
    return ExpertLayout(**sizes | {"by_inputs": sizes["by_inputs"] and sizes["transposed"]})  # type: ignore[arg-type]


LAYOUTS = st.builds(
    _layout,
    experts=st.integers(1, 3),
    parts=st.integers(1, 2),
    rows=st.integers(1, 7),
    columns=st.integers(1, 6),
    transposed=st.booleans(),
    interleaved=st.booleans(),
    by_inputs=st.booleans(),
)


def test_gpt_oss_lies_transposed_with_gate_and_up_in_turns() -> None:
    gate, up = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 6.0], [7.0, 8.0]])  # outputs x inputs
    layout = ExpertLayout(1, 2, 2, 2, transposed=True, interleaved=True)
    stored = layout.arranged(np.concatenate([gate, up]))
    np.testing.assert_array_equal(stored, [[1, 5, 3, 7], [2, 6, 4, 8]])


@settings(max_examples=300, deadline=None)
@given(layout=LAYOUTS, panel=st.sampled_from([16, 64, 1 << 20]), data=st.data())
def test_any_range_of_either_form_is_that_of_the_whole(layout: ExpertLayout, panel: int, data: st.DataObject) -> None:
    """With panels of one column, of some, and of all."""
    rng = np.random.default_rng(0)
    whole = rng.standard_normal(layout.straight_shape).astype(np.float32)
    stored = np.stack([layout.arranged(expert) for expert in whole])
    assert stored.shape == layout.stored_shape
    start = data.draw(st.integers(0, whole.size - 1))
    stop = data.draw(st.integers(start + 1, whole.size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expert_layout, "_PANEL_BYTES", panel)
        out = np.empty(stop - start, np.float32)
        view = straight(Memory(stored), {"x": layout})
        assert view.tensors["x"].shape == layout.straight_shape
        view.read("x", start, stop, out)
        np.testing.assert_array_equal(out, whole.reshape(-1)[start:stop])
        if layout.by_inputs:
            return
        view = arranged(Memory(whole), {"x": layout})
        assert view.tensors["x"].shape == layout.stored_shape
        view.read("x", start, stop, out)
        np.testing.assert_array_equal(out, stored.reshape(-1)[start:stop])
    assert straight(arranged(Memory(whole), {"x": layout}), {"x": layout}).tensors["x"].shape == whole.shape


def test_a_matrix_of_16_bits_is_arranged_as_its_elements_are() -> None:
    layout = ExpertLayout(1, 2, 3, 4, transposed=True)
    values = torch.arange(24).reshape(6, 4).bfloat16()
    stored = layout.arranged(values.view(torch.int16).numpy())
    assert torch.equal(torch.from_numpy(stored).view(torch.bfloat16), values.T)
