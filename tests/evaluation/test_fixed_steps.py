"""Batches whose memory stays where it is, on a device: the same logits as one prompt after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from weightsmith.evaluation.generation.fixed_steps import FixedSteps, _groups
from weightsmith.evaluation.generation.growing_steps import GrowingSteps
from weightsmith.evaluation.scoring.prefix_tree import in_order

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "head_dim": 8,
}
LIMIT = 6


def tiny(kind: str) -> torch.nn.Module:
    more = {"layer_types": ["sliding_attention", "full_attention"]} if kind == "Gemma3" else {}
    window = {} if kind == "Llama" else {"sliding_window": 8}
    config_class = getattr(transformers, {"Gemma3": "Gemma3TextConfig"}.get(kind, f"{kind}Config"))
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}ForCausalLM")(config_class(**SIZES, **window, **more)).eval()


def some_prompts(seed: int) -> list[np.ndarray]:
    """Sorted: two tasks, each with a beginning of its own, and a few that share nothing."""
    random = np.random.default_rng(seed)

    def some(low: int, high: int) -> np.ndarray:
        return random.integers(1, 100, random.integers(low, high), dtype=np.int32)

    tasks = [some(20, 40), some(70, 90)]
    prompts = [np.concatenate([task, some(1, 12)]) for task in tasks for _ in range(4)] + [
        some(1, 30) for _ in range(3)
    ]
    return [prompts[number] for number in in_order(prompts)]


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Gemma3"])
@pytest.mark.parametrize("read_at_once", [1, 60, 1 << 20])
@torch.inference_mode()
def test_the_same_logits(kind: str, read_at_once: int) -> None:
    model, prompts = tiny(kind), some_prompts(read_at_once)
    steps = GrowingSteps(model, prompts, LIMIT), FixedSteps(model, prompts, LIMIT, read_at_once=read_at_once)
    rows = torch.arange(len(prompts))
    for number in range(LIMIT):
        torch.testing.assert_close(steps[1].logits, steps[0].logits, rtol=1e-4, atol=1e-5)
        tokens = steps[0].logits.argmax(-1)
        if number == 2:  # some have ended
            rows = torch.tensor([0, 3, 4, 9])
            tokens = tokens[rows]
            for step in steps:
                step.keep_rows(rows)
        for step in steps:
            step(tokens)


@pytest.mark.parametrize("read_at_once", [1, 60, 300, 1 << 20])
def test_what_is_read_together(read_at_once: int) -> None:
    prompts = some_prompts(0)
    groups = list(_groups(prompts, read_at_once))
    assert [first for first, _, _ in groups] == [0, *(last for _, last, _ in groups[:-1])]
    assert groups[-1][1] == len(prompts)
    for first, last, common in groups:
        together = prompts[first:last]
        assert all(
            np.array_equal(prompt[:common], together[0][:common]) and len(prompt) > common for prompt in together
        )
        longest = max(len(prompt) for prompt in together) - common
        assert last == first + 1 or len(together) * longest <= read_at_once


def test_a_long_beginning_is_read_once() -> None:
    """The four prompts of the second task share at least 70 tokens: they are read with nobody else."""
    prompts = some_prompts(1)
    groups = [(last - first, common) for first, last, common in _groups(prompts, 1 << 20)]
    assert any(count == 4 and common >= 70 for count, common in groups)


class NotedStep:
    """A CUDA graph as far as a processor has one: what is captured changes nothing, and each replay is one step, into
    the same logits."""

    steps: FixedSteps
    replays = 0

    def replay(self) -> None:
        logits = self.steps.logits
        logits.copy_(self.steps._step())
        NotedStep.replays += 1


@contextmanager
def noting(graph: NotedStep, *, capture_error_mode: str) -> Iterator[None]:
    steps = graph.steps
    held = [*(memory for layer in steps._cache.layers for memory in layer.memory)]  # type: ignore[union-attr]
    held += [steps._visible, steps._key_positions, steps._positions, steps._column]
    before = [tensor.clone() for tensor in held]
    yield
    for tensor, value in zip(held, before, strict=True):
        tensor.copy_(value)


@contextmanager
def failing(graph: NotedStep, *, capture_error_mode: str) -> Iterator[None]:
    raise RuntimeError("operation not permitted when stream is capturing")
    yield


@pytest.mark.parametrize(("capture", "replays"), [(noting, 16), (failing, 0)])
@torch.inference_mode()
def test_a_step_that_is_repeated_as_a_graph(capture: Any, replays: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts, limit = tiny("Llama"), some_prompts(0), 40
    plain = FixedSteps(model, prompts, limit, read_at_once=300)
    repeated = FixedSteps(model, prompts, limit, read_at_once=300)
    repeated._has_graphs = True
    monkeypatch.setattr(NotedStep, "steps", repeated, raising=False)
    monkeypatch.setattr(NotedStep, "replays", 0)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", NotedStep)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    for number in range(20):
        assert torch.equal(repeated.logits, plain.logits)
        tokens = plain.logits.argmax(-1)
        if number == 5:  # a smaller batch is another graph
            rows = torch.arange(0, len(prompts), 2)
            tokens = tokens[rows]
            for step in (plain, repeated):
                step.keep_rows(rows)
        for step in (plain, repeated):
            step(tokens)
    assert NotedStep.replays == replays  # of 20 steps, the first two of each batch are plain
