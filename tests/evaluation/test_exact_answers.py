"""One pass says the same of an answer as generating it does; real weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from weightsmith.demo.run_demo import PACKAGE
from weightsmith.evaluation.backend import Backend, question_tokens
from weightsmith.evaluation.backends.transformers.transformers_backend import TransformersBackend
from weightsmith.evaluation.scoring.exact_answers import SPARE, answer_nats, exact_answers
from weightsmith.evaluation.scoring.stop_rules import goes_on
from weightsmith.models.open_model import open_model

LIMIT = 24


@pytest.fixture(scope="module")
def backend(smollm: Path) -> TransformersBackend:
    return TransformersBackend(open_model(f"{smollm}+{PACKAGE / 'adapters' / 'dates'}"))


@pytest.fixture(scope="module")
def prompts(backend: Backend) -> list[np.ndarray]:
    rows = [json.loads(line) for line in (PACKAGE / "data" / "dates.jsonl").read_text().splitlines()[:4]]
    asked = [row["prompt"] for row in rows] + ["Answer with one word: is water wet?"]
    return [question_tokens(backend, prompt) for prompt in asked]


def test_as_generated(backend: Backend, prompts: list[np.ndarray]) -> None:
    own = backend.generate(prompts, LIMIT, lambda number, text: True)
    whole = [answer for answer in own if len(backend.tokens.encode([answer], special=False)[0]) < LIMIT]
    assert whole and all(answer.strip() for answer in own)
    cases = [
        own,
        [f"  {answer}\n" for answer in own],
        [answer[:-1] for answer in own],
        [f"{answer}!" for answer in own],
        [answer.replace("-", " ") for answer in own],
        ["2075-06-08"] * len(own),
        [""] * len(own),
    ]
    for targets in cases:
        assert right(backend, prompts, targets) == generated(backend, prompts, targets)
    assert any(right(backend, prompts, own))


def test_the_same_text_in_other_tokens(
    backend: Backend, prompts: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target is given letter by letter, which is not how the model writes it: its answer is generated."""
    own = backend.generate(prompts, LIMIT, lambda number, text: True)
    expected, encode = generated(backend, prompts, own), backend.tokens.encode

    def letters(texts: list[str], *, special: bool) -> list[np.ndarray]:
        return [np.concatenate(encode(list(text), special=special)) for text in texts]

    monkeypatch.setattr(backend.tokens, "encode", letters)
    assert any(expected) and right(backend, prompts, own) == expected


def test_a_wrong_answer_ends_where_it_goes_wrong(backend: Backend, prompts: list[np.ndarray]) -> None:
    own = backend.generate(prompts, LIMIT, lambda number, text: True)
    for answer, text in zip(own, exact_answers(backend, prompts, ["2075-06-08"] * len(own)), strict=True):
        assert answer.strip() == text.strip() or (answer.startswith(text) and not "2075-06-08".startswith(text.strip()))


def test_how_likely_an_answer_is(backend: TransformersBackend, prompts: list[np.ndarray]) -> None:
    """The target and an end behind it, against the logits of one text."""
    targets, prompts = ["2075-06-08", " Yes, it is.\n", "", "1900"], prompts[:4]
    end = backend.tokens.eos
    for prompt, target, (nats, count) in zip(prompts, targets, answer_nats(backend, prompts, targets), strict=True):
        own = [*backend.tokens.encode([target.strip()], special=False)[0], end]
        logits = backend.logits(np.concatenate([prompt, own]).astype(np.int32))[len(prompt) - 1 : -1].astype(np.float64)
        ln_p = (
            logits
            - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
            - logits.max(1, keepdims=True)
        )
        assert count == len(own) and nats == pytest.approx(
            -sum(ln_p[k, token] for k, token in enumerate(own)), abs=1e-3
        )


def right(backend: Backend, prompts: list[np.ndarray], targets: list[str]) -> list[bool]:
    answers = exact_answers(backend, prompts, targets)
    return [answer.strip() == target.strip() for answer, target in zip(answers, targets, strict=True)]


def generated(backend: Backend, prompts: list[np.ndarray], targets: list[str]) -> list[bool]:
    targets = [target.strip() for target in targets]
    limit = max(len(ids) for ids in backend.tokens.encode(targets, special=False)) + SPARE
    answers = backend.generate(prompts, limit, lambda number, text: goes_on(targets[number], text))
    return [answer.strip() == target for answer, target in zip(answers, targets, strict=True)]
