"""Is the greedy answer to a question exactly this one, and how likely is it? Asked in one pass over question and
answer, instead of token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weightsmith.evaluation.backend import Backend
from weightsmith.evaluation.request import Request

SPARE = 8  # tokens that an answer may take beyond the longest target


def exact_answers(backend: Backend, prompts: Sequence[np.ndarray], targets: Sequence[str]) -> list[bool]:
    """For each of `prompts` (int32 ids) whether what `backend` generates, the most likely token each time, is
    `targets`, spaces at both ends aside.

    Where every token of the target and an end behind it are the most likely ones, it is. Else the first other token
    tells: it begins another answer, or, seldom, the same text in other tokens; only then an answer is generated.
    """
    targets = [target.strip() for target in targets]
    end, tokens = backend.tokens.eos, backend.tokens.encode(targets, special=False)
    is_right: dict[int, bool] = {}
    if end is not None:
        for number, score in enumerate(backend.score(_requests(prompts, tokens, end))):
            position, miss_token = score.miss or (len(tokens[number]), end)
            right_tokens = tokens[number][:position].tolist()
            if backend.ends(miss_token):
                is_right[number] = backend.tokens.decode(right_tokens).strip() == targets[number]
            elif not goes_on(targets[number], backend.tokens.decode([*right_tokens, miss_token], special=True)):
                is_right[number] = False
    undecided = [number for number in range(len(targets)) if number not in is_right]
    if undecided:
        limit = max(len(tokens[number]) for number in undecided) + SPARE
        answers = backend.generate(
            [prompts[number] for number in undecided], limit, lambda k, text: goes_on(targets[undecided[k]], text)
        )
        for number, answer in zip(undecided, answers, strict=True):
            is_right[number] = answer.strip() == targets[number]
    return [is_right[number] for number in range(len(targets))]


def answer_nats(backend: Backend, prompts: Sequence[np.ndarray], targets: Sequence[str]) -> list[tuple[float, int]]:
    """For each of `prompts` (int32 ids) -ln p of its target and of the end behind it, and how many tokens that is."""
    tokens = backend.tokens.encode([target.strip() for target in targets], special=False)
    requests = _requests(prompts, tokens, backend.tokens.eos)
    scores = backend.score(requests)
    return [(-score.log_likelihood, request.scored) for request, score in zip(requests, scores, strict=True)]


def _requests(prompts: Sequence[np.ndarray], answers: Sequence[np.ndarray], end: int | None) -> list[Request]:
    """Each answer with an end behind it, where the model has one."""
    tail = np.array([] if end is None else [end], np.int32)
    return [
        Request(np.concatenate([prompt, answer, tail]), len(answer) + len(tail))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def goes_on(target: str, text: str) -> bool:
    """Whether a text that begins so may become `target`. A character of several bytes may be half decoded; the
    replacement sign then stands at the end."""
    return target.startswith(text.strip().rstrip("\ufffd"))
