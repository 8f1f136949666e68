"""Is the greedy answer to a question exactly this one, and how likely is it? Asked in one pass over question and
answer, instead of token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weightsmith.evaluation.backend import Backend
from weightsmith.evaluation.request import Request
from weightsmith.evaluation.scoring.stop_rules import UntilWrong, goes_on

SPARE = 8  # tokens that an answer may take beyond the longest target


def exact_answers(backend: Backend, prompts: Sequence[np.ndarray], targets: Sequence[str]) -> list[str]:
    """For each of `prompts` (int32 ids) what `backend` generates, the most likely token each time, up to where it can
    no longer become `targets`, spaces at both ends aside.

    Where every token of the target and an end behind it are the most likely ones, it is the target. Else the first
    other token tells: it begins another answer, or, seldom, the same text in other tokens; only then an answer is
    generated.
    """
    targets = [target.strip() for target in targets]
    end, tokens = backend.tokens.eos, backend.tokens.encode(targets, special=False)
    answers: dict[int, str] = {}
    if end is not None:
        for number, score in enumerate(backend.score(_requests(prompts, tokens, end))):
            position, miss_token = score.miss or (len(tokens[number]), end)
            right_tokens = tokens[number][:position].tolist()
            if backend.ends(miss_token):
                answers[number] = backend.tokens.decode(right_tokens)
            elif not goes_on(targets[number], text := backend.tokens.decode([*right_tokens, miss_token], special=True)):
                answers[number] = text
    undecided = [number for number in range(len(targets)) if number not in answers]
    if undecided:
        limit = max(len(tokens[number]) for number in undecided) + SPARE
        rule = UntilWrong([targets[number] for number in undecided])
        generated = backend.generate([prompts[number] for number in undecided], limit, rule)
        answers |= dict(zip(undecided, generated, strict=True))
    return [answers[number] for number in range(len(targets))]


def answer_nats(backend: Backend, prompts: Sequence[np.ndarray], targets: Sequence[str]) -> list[tuple[float, float]]:
    """For each of `prompts` (int32 ids) -ln p of its target and of the end behind it, and how many tokens that is."""
    tokens = backend.tokens.encode([target.strip() for target in targets], special=False)
    requests = _requests(prompts, tokens, backend.tokens.eos)
    scores = backend.score(requests)
    return [(-score.log_likelihood, float(request.scored)) for request, score in zip(requests, scores, strict=True)]


def _requests(prompts: Sequence[np.ndarray], answers: Sequence[np.ndarray], end: int | None) -> list[Request]:
    """Each answer with an end behind it, where the model has one."""
    tail = np.array([] if end is None else [end], np.int32)
    return [
        Request(np.concatenate([prompt, answer, tail]), len(answer) + len(tail))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
