"""A checkpoint with an adapter's changes: the same values in whatever pieces it is read, from a base that is read once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.fuzzing import examples
from weightsmith.checkpoint.checkpoint import Checkpoint
from weightsmith.checkpoint.formats.safetensors_file import SafetensorsFile
from weightsmith.checkpoint.views.adapters.adapted import AdaptedCheckpoint
from weightsmith.checkpoint.views.adapters.changes import AddLowRank, Change, Dora

ROWS, WIDTH, RANK = 700, 517, 7


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> SafetensorsFile:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("base") / "model.safetensors"
    save_file({"w": torch.randn(ROWS, WIDTH).bfloat16()}, path)
    return SafetensorsFile(path)


def low_rank(seed: int) -> AddLowRank:
    generator = torch.Generator().manual_seed(seed)
    return AddLowRank(torch.randn(ROWS, RANK, generator=generator), torch.randn(RANK, WIDTH, generator=generator))


def adapted(base: Checkpoint, change: Change) -> AdaptedCheckpoint:
    return AdaptedCheckpoint(base, {"w": [change]}, Path("adapter"))


def read(checkpoint: Checkpoint, start: int, stop: int, dtype: type = np.float32) -> np.ndarray:
    out = np.empty(stop - start, dtype)
    checkpoint.read("w", start, stop, out)
    return out


@examples(60)
@given(st.integers(0, ROWS * WIDTH), st.integers(0, ROWS * WIDTH), st.sampled_from(["lora", "dora", "dora by column"]))
def test_a_value_does_not_depend_on_the_piece(base: SafetensorsFile, one: int, other: int, kind: str) -> None:
    change: Change = low_rank(1)
    if kind != "lora":
        by_column = kind == "dora by column"
        change = Dora(low_rank(1), torch.rand(WIDTH if by_column else ROWS), by_column)
    checkpoint = adapted(base, change)
    start, stop = sorted((one, other))
    whole = read(checkpoint, 0, ROWS * WIDTH)
    assert np.array_equal(read(checkpoint, start, stop), whole[start:stop])
    assert np.array_equal(read(checkpoint, start, stop, np.float64), whole[start:stop].astype(np.float64))


def test_it_is_the_base_and_the_product(base: SafetensorsFile) -> None:
    change = low_rank(1)
    stored = torch.from_numpy(read(base, 0, ROWS * WIDTH)).reshape(ROWS, WIDTH).double()
    exact = (stored + change.b.double() @ change.a.double()).reshape(-1).numpy()
    assert np.abs(read(adapted(base, change), 0, ROWS * WIDTH) - exact).max() < 1e-5


def test_adapters_on_one_base_read_it_once_per_piece(base: SafetensorsFile) -> None:
    class Counting:
        tensors = base.tensors
        reads = 0

        def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
            self.reads += 1
            base.read(name, start, stop, out)

    counting = Counting()
    checkpoints = [adapted(counting, low_rank(seed)) for seed in range(3)]
    first = [read(checkpoint, 0, 100 * WIDTH) for checkpoint in checkpoints]
    assert counting.reads == 1
    second = [read(checkpoint, 300 * WIDTH, 400 * WIDTH) for checkpoint in checkpoints]
    assert counting.reads == 2
    for checkpoint, low, high in zip(checkpoints, first, second, strict=True):
        whole = read(checkpoint, 0, ROWS * WIDTH)
        assert np.array_equal(low, whole[: 100 * WIDTH]) and np.array_equal(high, whole[300 * WIDTH : 400 * WIDTH])
