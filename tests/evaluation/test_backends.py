"""Both backends against transformers' own generate and loss."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import weightsmith
from tests.conftest import stderr_lines, weightsmith_process
from weightsmith.errors import EvaluationError
from weightsmith.evaluation.backend import question_tokens
from weightsmith.evaluation.backends.llama_cpp.llama_cpp_backend import LlamaCppBackend
from weightsmith.evaluation.backends.transformers.transformers_backend import TransformersBackend
from weightsmith.evaluation.generation.growing_cache import cache_argument
from weightsmith.evaluation.request import Request
from weightsmith.models.open_model import open_model

PROMPTS = ["Hi", "What is the capital of France, and why?", "Name three colours", "Sing a song of sixpence " * 6]
LIMIT = 12


@pytest.fixture(scope="module")
def whole_gguf(whole_vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gguf") / "a-f32.gguf"
    return weightsmith.export(whole_vocabulary / "a", out, types="f32").out


@pytest.fixture(scope="module")
def reference(whole_vocabulary: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(whole_vocabulary / "a"), AutoTokenizer.from_pretrained(
        whole_vocabulary / "a"
    )


def expected(reference, prompt: str) -> str:
    model, tokenizer = reference
    chat = [{"role": "user", "content": prompt}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**inputs, max_new_tokens=LIMIT, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    return tokenizer.decode([t for t in out.tolist() if t not in (0, 2)])


def always(question: int, text: str) -> bool:
    return True


def test_batched_answers_are_those_of_generate(reference, whole_vocabulary: Path) -> None:
    backend = TransformersBackend(open_model(str(whole_vocabulary / "a")))
    got = backend.generate([question_tokens(backend, p) for p in PROMPTS], LIMIT, always)
    assert got == [expected(reference, p) for p in PROMPTS]


def test_llama_cpp_asks_the_same_tokens_and_gives_the_same_answers(
    reference, whole_vocabulary: Path, whole_gguf: Path
) -> None:
    llama_cpp_backend, transformers_backend = (
        LlamaCppBackend(whole_gguf, 2),
        TransformersBackend(open_model(str(whole_vocabulary / "a"))),
    )
    questions = [question_tokens(llama_cpp_backend, p) for p in PROMPTS]
    assert [q.tolist() for q in questions] == [question_tokens(transformers_backend, p).tolist() for p in PROMPTS]
    assert llama_cpp_backend.generate(questions, LIMIT, always) == [expected(reference, p) for p in PROMPTS]


def test_perplexity(reference, whole_vocabulary: Path, whole_gguf: Path, tmp_path: Path) -> None:
    model, tokenizer = reference
    text = "The quick brown fox jumps over the lazy dog, and nobody minds. " * 60
    (tmp_path / "fox.txt").write_text(text)
    ids, total, count = tokenizer(text)["input_ids"], 0.0, 0
    for start in range(0, len(ids), 512):
        window = torch.tensor([ids[start : start + 512]])
        total += model(input_ids=window, labels=window).loss.item() * (window.shape[1] - 1)
        count += window.shape[1] - 1
    assert len(ids) > 512
    result = weightsmith.evaluate(
        {"hf": str(whole_vocabulary / "a"), "gguf": str(whole_gguf)}, texts=[tmp_path / "fox.txt"]
    )
    (suite,) = result.suites
    hf, gguf = (next(iter(model.values.values())) for model in suite.models)
    for text_result in (hf, gguf):
        assert sum(tokens for _, tokens in text_result.answers.values()) == count
        assert text_result.count == -(-len(ids) // 512) and text_result.units == "windows"
    assert hf.value == pytest.approx(math.exp(total / count), rel=1e-4)
    assert gguf.value == pytest.approx(hf.value, rel=2e-2)  # llama.cpp keeps keys and values in float16


def test_an_answer_is_right_only_as_a_whole(
    reference, whole_vocabulary: Path, whole_gguf: Path, tmp_path: Path
) -> None:
    rows = []
    for prompt in PROMPTS[:3]:
        answer = expected(reference, prompt)
        rows += [{"prompt": prompt, "target": answer[:-2]}, {"prompt": prompt, "target": answer + "!"}]
    (tmp_path / "near.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    models = {"hf": str(whole_vocabulary / "a"), "gguf": str(whole_gguf)}
    (suite,) = weightsmith.evaluate(models, questions=[tmp_path / "near.jsonl"]).suites
    assert [value.value for model in suite.models for value in model.values.values()] == [0, 0]


BAD = {
    "not JSON": ("{prompt\n", "near.jsonl:1: not valid JSON"),
    "no target": ('{"prompt": "a", "target": "b"}\n{"prompt": "a"}\n', "near.jsonl:2: needs the strings"),
    "empty": ("\n", "near.jsonl"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_questions(case: str, whole_vocabulary: Path, tmp_path: Path) -> None:
    text, message = BAD[case]
    (tmp_path / "near.jsonl").write_text(text)
    output = tmp_path / "out"
    result = weightsmith_process(
        "evaluate", whole_vocabulary / "a", "--questions", tmp_path / "near.jsonl", "--output", output
    )
    assert result.returncode == 2
    assert message in result.stderr and len(stderr_lines(result)) == 1
    assert not output.exists()


def test_tables_and_files(whole_vocabulary: Path, questions: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = weightsmith_process(
        "evaluate", f"mine={whole_vocabulary / 'a'}", "--questions", questions, "--output", output
    )
    assert result.returncode == 0, result.stderr
    assert re.search(r"^\|\s+\|\s+mine \|\n.*\n\| capitals \|\s+\d+\.\d\d ± \d+\.\d\d \|$", result.stdout, re.MULTILINE)
    assert (output / "evaluation.md").read_text().strip() == result.stdout.strip()
    samples = [json.loads(line) for line in (output / "mine" / "samples_tasks_capitals.jsonl").read_text().splitlines()]
    assert [sample["doc"]["prompt"] for sample in samples] == [json.loads(q)["prompt"] for q in questions.open()]
    assert all(sample["exact_match"] == (sample["filtered_resps"][0].strip() == sample["target"]) for sample in samples)


def test_llama_cpp_scores_as_transformers_does(whole_vocabulary: Path, whole_gguf: Path) -> None:
    llama_cpp_backend, transformers_backend = (
        LlamaCppBackend(whole_gguf, 2),
        TransformersBackend(open_model(str(whole_vocabulary / "a"))),
    )
    random = np.random.default_rng(3)
    stem = random.integers(17, 9000, 700, dtype=np.int32)  # longer than one call to llama.cpp takes
    requests = [Request(stem, 5)]
    for length in (3, 20, 60):
        question = np.concatenate([stem[:650], random.integers(17, 9000, length, dtype=np.int32)])
        for _ in range(40):
            answer = random.integers(17, 9000, random.integers(1, 8), dtype=np.int32)
            requests.append(Request(np.concatenate([question, answer]), len(answer)))
    log_likelihoods = [score.log_likelihood for score in llama_cpp_backend.score(requests)]
    assert log_likelihoods == pytest.approx(
        [s.log_likelihood for s in transformers_backend.score(requests)], abs=0.15
    )  # float16 keys and values
    plain = [llama_cpp_backend.score([request])[0].log_likelihood for request in requests[::12]]
    assert log_likelihoods[::12] == pytest.approx(plain, abs=0.05)


_LITTLE_MEMORY = """
import os, resource, sys
import numpy as np
from weightsmith.models.open_model import open_model
from weightsmith.evaluation.backends.open_backend import open_backend
from weightsmith.evaluation.request import Request
most, spare, apart = int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
backend = open_backend(open_model(sys.argv[1]), threads=1, log=print)
random = np.random.default_rng(0)
requests = [Request(random.integers(20, most, 60, dtype=np.int32), 59) for _ in range(20)]
expected = [score.log_likelihood for score in backend.score(requests)]
computes = backend._process._child._process.pid if hasattr(backend, "_process") else os.getpid()
used = int(open(f"/proc/{computes}/statm").read().split()[0]) * resource.getpagesize()
resource.prlimit(computes, resource.RLIMIT_AS, (used + spare,) * 2)  # logits of one pack take 100 MB
found = [score.log_likelihood for score in backend.score(requests)]
print("largest difference", max(abs(a - b) for a, b in zip(expected, found)) < apart)
"""


@pytest.mark.parametrize("backend", ["transformers", "llama.cpp"])
def test_out_of_memory_halves_the_batch_and_goes_on(backend: str, whole_vocabulary: Path, whole_gguf: Path) -> None:
    if backend == "transformers":
        given = [whole_vocabulary / "a", "40000", "30000000", "0.01"]
    else:
        given = [whole_gguf, "9000", "80000000", "0.1"]
    done = subprocess.run([sys.executable, "-c", _LITTLE_MEMORY, *given], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "out of memory; continuing with batches half as large (256 tokens)" in done.stdout
    assert done.stdout.splitlines()[-1] == "largest difference True"


def test_llama_cpp_keeps_to_the_memory(whole_vocabulary: Path, whole_gguf: Path) -> None:
    random = np.random.default_rng(3)
    stem = random.integers(17, 9000, 200, dtype=np.int32)
    requests = [Request(np.concatenate([stem, random.integers(17, 9000, 30, dtype=np.int32)]), 29) for _ in range(12)]
    weights = whole_gguf.stat().st_size
    free, little = LlamaCppBackend(whole_gguf, 2), LlamaCppBackend(whole_gguf, 2, memory=weights + 2_000_000)
    expected = [score.log_likelihood for score in free.score(requests)]
    assert [s.log_likelihood for s in little.score(requests)] == pytest.approx(expected, rel=5e-4)
    prompts = [request.tokens for request in requests]
    assert little.generate(prompts, 4, lambda question, text: True) == free.generate(prompts, 4, lambda q, text: True)
    least = LlamaCppBackend(whole_gguf, 2, memory=weights + 2000)
    with pytest.raises(EvaluationError, match="memory leaves room for keys and values of"):
        least.score(requests)


_MEMORY_USED = """
import sys
import numpy as np, torch
from weightsmith.models.open_model import open_model
from weightsmith.evaluation.request import Request
from weightsmith.evaluation.backends.transformers.transformers_backend import TransformersBackend
torch.set_num_threads(1)
model, extra = open_model(sys.argv[1]), int(sys.argv[2])
weights = TransformersBackend(model)._model.num_parameters() * 4
backend = TransformersBackend(model, memory=weights + extra if extra else None)
random = np.random.default_rng(0)
requests = [Request(random.integers(20, 40000, 200, dtype=np.int32), 199) for _ in range(30)]
backend.score(requests[:1])
def told(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = told("VmRSS")
backend.score(requests)
print(told("VmHWM") - before)
"""


def test_memory_is_a_bound(whole_vocabulary: Path) -> None:
    used = {}
    for extra in (0, 60_000_000):
        command = [sys.executable, "-c", _MEMORY_USED, whole_vocabulary / "a", str(extra)]
        used[extra] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert used[60_000_000] < 60_000_000 < used[0]


def test_a_request_that_memory_has_no_room_for(whole_vocabulary: Path) -> None:
    model = open_model(str(whole_vocabulary / "a"))
    weights = TransformersBackend(model)._model.num_parameters() * 4
    backend = TransformersBackend(model, memory=weights + 100_000)
    with pytest.raises(EvaluationError, match="memory leaves room for keys and values of"):
        backend.score([Request(np.ones(2000, np.int32), 5)])


def test_the_cache_goes_in_under_the_name_that_the_class_has() -> None:
    """transformers 5.24 renamed it."""

    class Before:
        def forward(self, input_ids: object, past_key_values: object = None) -> None: ...

    class Since:
        def forward(self, input_ids: object, cache: object = None) -> None: ...

    assert cache_argument(Before(), 1) == {"past_key_values": 1} and cache_argument(Since(), 1) == {"cache": 1}
