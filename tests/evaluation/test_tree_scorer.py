"""Prefix trees by property, and their scores against one plain forward pass per request."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from tests.fuzzing import examples
from weightsmith.evaluation.backends.transformers.transformers_tree import TransformersTree
from weightsmith.evaluation.request import Request, Score
from weightsmith.evaluation.scoring.plain_scorer import score_plainly
from weightsmith.evaluation.scoring.prefix_tree import count_nodes, in_order, steps
from weightsmith.evaluation.scoring.tree_scorer import score_tree

SEQUENCES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 40), st.lists(st.integers(0, 2), min_size=1, max_size=9)).map(
        lambda drawn: tuple([drawn[0]] * drawn[1] + drawn[2])
    ),
    min_size=1,
    max_size=30,
)


@examples(300)
@given(SEQUENCES, st.integers(1, 60), st.integers(1, 12))
def test_every_position_is_computed_once_behind_its_own_prefix(
    drawn: list[tuple[int, ...]], budget: int, most: int
) -> None:
    arrays = [np.array(sequence, np.int32) for sequence in drawn]
    arrays = [arrays[number] for number in in_order(arrays)]
    sequences = [tuple(array.tolist()) for array in arrays]
    assert sequences == sorted(drawn)
    assert count_nodes(arrays) == len({sequence[:n] for sequence in drawn for n in range(1, len(sequence) + 1)})
    kept: list[int] = []  # what keys and values are of
    covered = [0] * len(sequences)
    for step in steps(arrays, budget, most):
        assert step.depth <= len(kept)
        kept = kept[: step.depth]
        assert len({(p, t) for p, t in zip(step.parents.tolist(), step.tokens.tolist(), strict=True)}) == len(
            step.tokens
        )
        assert len(step.tokens) <= budget and (step.stem or len(step.paths) <= most)
        nodes, ends = np.arange(len(step.tokens)), step.ends()
        seen_by = (nodes <= nodes[:, None]) & (nodes[:, None] < ends)
        for k, path in step.paths.items():
            assert list(sequences[k][: step.depth]) == kept and covered[k] == step.depth
            assert step.tokens[path].tolist() == list(sequences[k][step.depth : step.depth + len(path)])
            assert step.positions[path].tolist() == list(range(step.depth, step.depth + len(path)))
            assert step.parents[path].tolist() == [-1, *path[:-1].tolist()][: len(path)]
            covered[k] += len(path)
            if len(path):
                assert np.flatnonzero(seen_by[path[-1]]).tolist() == sorted(path.tolist())
        if step.stem:
            kept = kept + step.tokens.tolist()
    assert covered == [len(sequence) for sequence in sequences]


def tiny(family: str):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "max_position_embeddings": 128, "hidden_size": 32, "intermediate_size": 64}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.3}
    grouped = sizes | {"num_key_value_heads": 2}
    configs = {
        "gpt2": {
            "vocab_size": 97,
            "n_positions": 128,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "initializer_range": 0.3,
        },
        "phi": sizes,
        "llama": grouped,
        "mistral": grouped | {"sliding_window": 12},
        "falcon": sizes | {"alibi": True},
        "gemma3_text": grouped
        | {"sliding_window": 12, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]},
        "bloom": {"vocab_size": 97, "hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3},
        "mamba": {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.3},
    }
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **configs[family])).eval()


@torch.inference_mode()
def plain(model, request: Request) -> Score:
    ids = torch.from_numpy(request.tokens.astype(np.int64))[None]
    logits = model(ids[:, :-1]).logits[0, -request.scored :].log_softmax(-1)
    expected = ids[0, -request.scored :]
    return Score(float(logits.gather(1, expected[:, None]).sum()), bool((logits.argmax(-1) == expected).all()))


def mixed_requests() -> list[Request]:
    """Questions behind one block, as few-shot examples are, with several answers each; and some odd ones."""
    random = np.random.default_rng(1)
    block = random.integers(0, 97, 30).tolist()
    requests = []
    for _ in range(6):
        question = block + random.integers(0, 97, random.integers(1, 20)).tolist()
        for _ in range(4):
            answer = random.integers(0, 97, random.integers(1, 6)).tolist()
            requests.append(Request(np.array(question + answer, np.int32), len(answer)))
    requests += [requests[0], Request(np.array(block, np.int32), 29), Request(np.array([5, 7], np.int32), 1)]
    return requests


@pytest.mark.parametrize("family", ["llama", "phi", "gpt2", "mistral", "gemma3_text"])
@pytest.mark.parametrize("budget", [1, 40, 4000])
def test_scores_are_those_of_plain_passes(family: str, budget: int) -> None:
    model, requests = tiny(family), mixed_requests()
    for request, scores in zip(requests, score_tree(requests, TransformersTree(model), budget=budget), strict=True):
        expected = plain(model, request)
        assert scores.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-3)
        assert scores.greedy == expected.greedy


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "falcon", "mamba"])
@pytest.mark.parametrize("budget", [1, 300])
def test_scores_of_padded_batches_are_those_of_plain_passes(family: str, budget: int) -> None:
    model, requests = tiny(family), mixed_requests()
    for request, scores in zip(requests, score_plainly(model, requests, budget=budget), strict=True):
        expected = plain(model, request)
        assert scores.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-3)
        assert scores.greedy == expected.greedy
