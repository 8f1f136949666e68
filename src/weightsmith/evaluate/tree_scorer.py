"""Log-likelihoods of continuations by a live `transformers` model, every shared prefix computed once.

The nodes of a step go through the model as one sequence, with their positions in the tree and a mask that shows each its ancestors
(as in SpecInfer's tree attention, https://arxiv.org/abs/2305.09781), so nothing is padded. Logits are computed at the nodes that
predict something, and nowhere else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from weightsmith.evaluate.prefix_tree import Step, steps

_ROWS = 256  # logits at once: [rows, vocabulary] in float32


@dataclass(frozen=True)
class Request:
    """Tokens whose last `scored` are to be predicted, each from all before it; 1 <= `scored` < number of tokens."""

    tokens: tuple[int, ...]
    scored: int


@dataclass(frozen=True)
class Score:
    """Sum of ln p of the scored tokens, and whether each of them is the most likely one."""

    log_likelihood: float
    greedy: bool


@torch.inference_mode()
def score(
    model: Any, requests: Sequence[Request], *, budget: int, done: Callable[[int, Score], None] | None = None
) -> list[Score]:
    """In the order of `requests`. `budget`: nodes per forward pass; `done` is told of each request when its score is known."""
    from transformers import DynamicCache

    order = sorted(range(len(requests)), key=lambda number: requests[number].tokens)
    inputs = [requests[number].tokens[:-1] for number in order]
    totals, greedy = np.zeros(len(requests)), np.ones(len(requests), bool)
    left = np.array([requests[number].scored for number in order])
    results: list[Score | None] = [None] * len(requests)
    cache: Any = DynamicCache(config=model.config)
    for step in steps(inputs, budget):
        cache.crop(step.depth - cache.get_seq_length())
        wanted: dict[int, list[tuple[int, int]]] = defaultdict(list)  # node -> (sequence, token it should predict)
        for k, path in step.paths.items():
            request = requests[order[k]]
            first = len(request.tokens) - request.scored - 1  # the position that predicts the first scored token
            for place in range(max(first, step.depth), step.depth + len(path)):
                wanted[int(path[place - step.depth])].append((k, request.tokens[place + 1]))
        for k, ln_p, best in _predict(model, step, cache, wanted):
            totals[k] += ln_p
            greedy[k] &= best
            left[k] -= 1
            if not left[k]:
                found = Score(float(totals[k]), bool(greedy[k]))
                results[order[k]] = found
                if done:
                    done(order[k], found)
    return [found for found in results if found is not None]


def _predict(
    model: Any, step: Step, cache: Any, wanted: dict[int, list[tuple[int, int]]]
) -> list[tuple[int, float, bool]]:
    """(sequence, ln p, is it the most likely token) for each prediction asked for."""
    mask = torch.zeros(1, 1, len(step.tokens), step.depth + len(step.tokens))
    mask[0, 0][~torch.from_numpy(step.mask())] = torch.finfo(torch.float32).min
    nodes = sorted(wanted)
    out = model(
        input_ids=torch.from_numpy(step.tokens)[None], position_ids=torch.from_numpy(step.positions)[None],
        attention_mask=mask.to(model.dtype), past_key_values=cache, use_cache=True,
        logits_to_keep=torch.tensor(nodes) if nodes else 1,
    )  # fmt: skip
    found = []
    for first in range(0, len(nodes), _ROWS):
        logits = out.logits[0, first : first + _ROWS].float()
        normal, best = logits.logsumexp(-1), logits.argmax(-1)
        for row, node in enumerate(nodes[first : first + _ROWS]):
            for k, token in wanted[node]:
                found.append((k, float(logits[row, token] - normal[row]), int(best[row]) == token))
    return found
