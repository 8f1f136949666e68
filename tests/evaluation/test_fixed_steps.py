"""Batches whose memory stays where it is, on a device: the same logits as one prompt after the other."""

from __future__ import annotations

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
