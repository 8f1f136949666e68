"""Evaluation on a device: the path that accelerators take, on `cpu:0`, and what cannot be used is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightsmith
from weightsmith.errors import EvaluationError, MergeError
from weightsmith.evaluation.backend import question_tokens
from weightsmith.evaluation.backends.open_backend import transformers_backend
from weightsmith.evaluation.backends.transformers.several_devices import equal_parts
from weightsmith.evaluation.backends.transformers.transformers_backend import TransformersBackend
from weightsmith.evaluation.request import Request, Score
from weightsmith.evaluation.scoring.prefix_tree import in_order
from weightsmith.evaluation.scoring.stop_rules import UntilStop
from weightsmith.models.open_model import open_model


def scores(evaluation) -> list:
    return [value.value for model in evaluation.suites[0].models for value in model.values.values()]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_same_scores(
    precision: str, chat_models: Path, questions: Path, tmp_path: Path, strict_device: str
) -> None:
    (tmp_path / "sea.txt").write_text("The sea is calm tonight, the tide is full, the moon lies fair. " * 20)
    models, asked = [chat_models / "a"], {"questions": [questions], "texts": [tmp_path / "sea.txt"]}
    on_processor, on_device = (
        scores(weightsmith.evaluate(models, **asked, precision=precision, device=device)) for device in ("cpu", "cpu:0")
    )
    assert on_device == on_processor
    if precision == "float32":
        assert scores(weightsmith.evaluate(models, **asked, precision=precision, device=strict_device)) == on_device
    else:
        exact = scores(weightsmith.evaluate(models, **asked, precision="float32"))
        assert on_device[-1] == pytest.approx(exact[-1], rel=2e-2)


@pytest.mark.parametrize("devices", ["cpu:0", "cpu:0,cpu:0,cpu:0", "strict:0,strict:1"])
def test_the_same_answers(devices: str, whole_vocabulary: Path, strict_device: str) -> None:
    """Stops are looked for every few tokens there, and several devices share the prompts."""
    model = open_model(str(whole_vocabulary / "a"))
    plain, on_devices = (
        transformers_backend(model, precision="float32", memory=None, device=device, log=print)
        for device in ("cpu", devices)
    )
    prompts = [question_tokens(plain, prompt) for prompt in ["Hi", "Name three colours", "Sing a song " * 9, "Why?"]]
    own = plain.generate(prompts, 21, lambda question, text: True)
    for stops in ([], [own[0][5:9], own[1][-3:]], [text[:1] for text in own]):
        stop = UntilStop(stops)
        found: dict[int, str] = {}
        answers = on_devices.generate(prompts, 21, stop, on_answers=found.update)
        assert answers == plain.generate(prompts, 21, stop) == [found[number] for number in range(len(prompts))]


def test_several_devices_share_what_is_asked(
    chat_models: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sea.txt").write_text("The sea is calm tonight, the tide is full, the moon lies fair. " * 200)
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(f"""merge_method: linear
models: [{{model: {chat_models / "a"}}}, {{model: {chat_models / "b"}}}]
parameters: {{weight: 1}}
dtype: float32
""")
    models, asked = [chat_models / "a", recipe], {"questions": [questions], "texts": [tmp_path / "sea.txt"]}
    scored: list[int] = []
    score = TransformersBackend.score

    def noted(backend: TransformersBackend, requests: list[Request], **options: Any) -> list[Score]:
        scored.append(id(backend))
        return score(backend, requests, **options)

    monkeypatch.setattr(TransformersBackend, "score", noted)
    one, two = (scores(weightsmith.evaluate(models, **asked, device=device)) for device in ("cpu:0", "cpu:0,cpu:1"))
    assert two == pytest.approx(one, rel=1e-6)
    assert len(set(scored)) == 2 + 4


def test_a_failure_on_one_of_several_devices_is_the_failure(chat_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = transformers_backend(
        open_model(str(chat_models / "a")), precision="float32", memory=1000, device="cpu:0,cpu:1", log=print
    )
    requests = [Request(np.arange(17, 40, dtype=np.int32), 4)] * 5
    with pytest.raises(EvaluationError, match="its weights take"):
        backend.score(requests)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_equal_parts(count: int) -> None:
    random = np.random.default_rng(count)
    sequences = [random.integers(0, 4, size, dtype=np.int32) for size in random.integers(1, 30, 40)]
    parts = equal_parts(sequences, count)
    assert sorted(number for part in parts for number in part) == list(range(40))
    assert [number for part in parts for number in part] == in_order(sequences)
    tokens = [sum(len(sequences[number]) for number in part) for part in parts]
    assert max(tokens) - min(tokens) < 2 * 30
    assert equal_parts([], count) == [[]] * count


def test_a_file_that_llama_cpp_cannot_offload_is_asked_on_the_processor(
    gguf_file: Path, questions: Path, monkeypatch
) -> None:
    monkeypatch.setattr("weightsmith.evaluation.evaluate.usable_devices", lambda device: device)
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
