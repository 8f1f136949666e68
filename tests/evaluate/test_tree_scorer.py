"""Prefix trees by property, and their scores against one plain forward pass per request."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from weightsmith.evaluate.prefix_tree import steps
from weightsmith.evaluate.tree_scorer import Request, score

SEQUENCES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 40), st.lists(st.integers(0, 2), min_size=1, max_size=9)).map(
        lambda drawn: tuple([drawn[0]] * drawn[1] + drawn[2])
    ),
    min_size=1, max_size=30,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(SEQUENCES, st.integers(1, 60))
def test_every_position_is_computed_once_behind_its_own_prefix(drawn: list[tuple[int, ...]], budget: int) -> None:
    sequences = sorted(drawn)
    kept: list[int] = []  # what keys and values are of
    covered = [0] * len(sequences)
    for step in steps(sequences, budget):
        assert step.depth <= len(kept)
        kept = kept[: step.depth]
        assert len({(p, t) for p, t in zip(step.parents.tolist(), step.tokens.tolist(), strict=True)}) == len(
            step.tokens
        )
        if not step.stem and len(step.paths) > 1:
            assert len(step.tokens) <= budget
        mask = step.mask()
        for k, path in step.paths.items():
            assert list(sequences[k][: step.depth]) == kept and covered[k] == step.depth
            assert step.tokens[path].tolist() == list(sequences[k][step.depth : step.depth + len(path)])
            assert step.positions[path].tolist() == list(range(step.depth, step.depth + len(path)))
            assert step.parents[path].tolist() == [-1, *path[:-1].tolist()][: len(path)]
            covered[k] += len(path)
            if len(path):
                seen = np.flatnonzero(mask[path[-1], step.depth :])
                assert seen.tolist() == sorted(path.tolist()) and mask[path[-1], : step.depth].all()
        if step.stem:
            kept = kept + step.tokens.tolist()
    assert covered == [len(sequence) for sequence in sequences]


def tiny(family: str):
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "max_position_embeddings": 128}
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=128, n_embd=32, n_layer=2, n_head=4)).eval()
    more = sizes | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    if family == "phi":
        return PhiForCausalLM(PhiConfig(**more)).eval()
    return LlamaForCausalLM(LlamaConfig(**more, num_key_value_heads=2)).eval()


@torch.inference_mode()
def plain(model, request: Request) -> tuple[float, bool]:
    ids = torch.tensor([request.tokens])
    logits = model(ids[:, :-1]).logits[0, -request.scored :].log_softmax(-1)
    wanted = ids[0, -request.scored :]
    return float(logits.gather(1, wanted[:, None]).sum()), bool((logits.argmax(-1) == wanted).all())


@pytest.mark.parametrize("family", ["llama", "phi", "gpt2"])
@pytest.mark.parametrize("budget", [1, 40, 4000])
def test_scores_are_those_of_plain_passes(family: str, budget: int) -> None:
    model, random = tiny(family), np.random.default_rng(1)
    block = random.integers(0, 97, 30).tolist()  # as few-shot examples are
    requests = []
    for _ in range(6):
        question = block + random.integers(0, 97, random.integers(1, 20)).tolist()
        for _ in range(4):
            answer = random.integers(0, 97, random.integers(1, 6)).tolist()
            requests.append(Request(tuple(question + answer), len(answer)))
    requests += [requests[0], Request(tuple(block), 29), Request((5, 7), 1)]
    for request, found in zip(requests, score(model, requests, budget=budget), strict=True):
        expected, greedy = plain(model, request)
        assert found.log_likelihood == pytest.approx(expected, abs=1e-4) and found.greedy == greedy


def test_a_backend_that_shifts_a_token_is_caught() -> None:
    model = tiny("llama")
    request = Request(tuple(range(10, 30)), 5)
    (found,) = score(model, [request], budget=100)
    shifted, _ = plain(model, Request(request.tokens[:-1], 5))
    assert found.log_likelihood != pytest.approx(shifted, abs=1e-3)
