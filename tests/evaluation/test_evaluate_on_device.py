"""Evaluation on a device: the path that accelerators take, on `cpu:0`, and what cannot be used is said."""

from __future__ import annotations

from pathlib import Path

import pytest

import weightsmith
from weightsmith.errors import MergeError


def scores(evaluation) -> list:
    return [value.value for model in evaluation.suites[0].models for value in model.values.values()]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_same_scores(precision: str, chat_models: Path, questions: Path, tmp_path: Path) -> None:
    (tmp_path / "sea.txt").write_text("The sea is calm tonight, the tide is full, the moon lies fair. " * 20)
    models, asked = [chat_models / "a"], {"questions": [questions], "texts": [tmp_path / "sea.txt"]}
    on_processor, on_device = (
        scores(weightsmith.evaluate(models, **asked, precision=precision, device=device)) for device in ("cpu", "cpu:0")
    )
    assert on_device == on_processor
    if precision != "float32":
        exact = scores(weightsmith.evaluate(models, **asked, precision="float32"))
        assert on_device[-1] == pytest.approx(exact[-1], rel=2e-2)


def test_a_file_that_llama_cpp_cannot_offload_is_asked_on_the_processor(
    gguf_file: Path, questions: Path, monkeypatch
) -> None:
    monkeypatch.setattr("weightsmith.evaluation.evaluate.usable_device", lambda device: device)
    log: list[str] = []
    plain, offloaded = (
        scores(weightsmith.evaluate([gguf_file], questions=[questions], device=device, log=log.append))
        for device in ("cpu", "cuda")
    )
    assert plain == offloaded
    assert sum("cannot use a GPU" in line for line in log) == 1


def test_a_device_that_is_not_there(chat_models: Path, questions: Path) -> None:
    with pytest.raises(MergeError, match="--device nonsense: torch cannot use it here"):
        weightsmith.evaluate([chat_models / "a"], questions=[questions], device="nonsense")
