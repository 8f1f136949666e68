"""A live model that becomes one candidate after the other, on the processor and by the way that devices take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import weightsmith
from tests.conftest import weightsmith_process
from weightsmith.checkpoint.weights_folder import WeightsFolder
from weightsmith.recipe_search.trials.input_cache import InputCache
from weightsmith.recipe_search.trials.live_merge import LiveMerge


def candidates(models: Path) -> list[dict[str, Any]]:
    """The second changes one model's weight, the third a density."""
    return [
        {
            "merge_method": "ties",
            "base_model": str(models / "base"),
            "models": [
                {"model": str(models / name), "parameters": {"weight": weight, "density": density}}
                for name, weight in (("a", 1.0), ("b", first))
            ],
            "dtype": "float32",
        }
        for first, density in ((1.0, 0.5), (0.25, 0.5), (0.25, 0.125))
    ]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_each_candidate_is_what_merge_writes(
    precision: str, chat_models: Path, tmp_path: Path, strict_device: str
) -> None:
    lives = [
        LiveMerge(
            tmp_path / "s.yml",
            threads=2,
            precision=precision,
            cache=InputCache(tmp_path, 1 << 30),
            device=device,
        )
        for device in ("cpu", "cpu:0", strict_device)
    ]
    copied = []
    on_device = lives[1]._settings.device_inputs
    assert on_device
    for tree in candidates(chat_models):
        written = weightsmith.merge(tree)
        for live in lives:
            live.become(live.plan(tree))
            assert live.backend
            state = live.backend.weights()
            for name, tensor in written.items():
                assert torch.equal(state[name].cpu(), tensor.to(state[name].dtype)), name
        copied.append(on_device.nbytes)
    # Three inputs went to the device, once.
    stored = [load_file(chat_models / name / "model.safetensors") for name in ("base", "a", "b")]
    assert copied == [sum(tensor.nbytes for model in stored for tensor in model.values())] * 3
    for live in lives:
        live.close()


def test_a_later_candidate_reads_nothing(chat_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveMerge(
        tmp_path / "s.yml", threads=1, precision="float32", cache=InputCache(tmp_path, 1 << 30), device="cpu:0"
    )
    first, _, last = candidates(chat_models)
    live.become(live.plan(first))
    written = weightsmith.merge(last)

    def read(*_: object) -> None:
        raise AssertionError("an input is read again")

    monkeypatch.setattr(WeightsFolder, "read", read)
    live.become(live.plan(last))
    assert live.backend
    state = live.backend.weights()
    assert all(torch.equal(state[name], tensor) for name, tensor in written.items())
    live.close()


def test_a_device_that_is_none(chat_models: Path, questions: Path, tmp_path: Path) -> None:
    (tmp_path / "s.yml").write_text(f"recipe: {{}}\nobjective: [{{questions: {questions}}}]\n")
    done = weightsmith_process("search", tmp_path / "s.yml", tmp_path / "out", "--device", "warp")
    assert done.returncode == 2 and "--device warp: torch cannot use it here" in done.stderr
    assert not (tmp_path / "out").exists()
