"""Answers by a live `transformers` model, many at a time; finished answers leave the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Protocol

import numpy as np
import torch

from weightsmith.evaluation.backend import GoesOn, OnAnswers, Sampling
from weightsmith.evaluation.generation.generation_batches import generation_batches
from weightsmith.evaluation.generation.next_token import next_tokens
from weightsmith.evaluation.text_tokens import TextTokens


class Steps(Protocol):
    """A batch of sorted prompts that has been read: `logits`, [rows, vocabulary], say what follows each. A call gives
    every row its next token, int64 [rows]. `leaving`: the part of a batch that has to have ended before the others go
    on without it."""

    leaving: float
    logits: torch.Tensor

    def __call__(self, tokens: torch.Tensor) -> None: ...

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Only these, int64, go on."""
        ...


class BatchGeneration:
    """`begin` reads a batch of prompts, with room for so many tokens after each; `tokens_at_once`: positions of all
    prompts and answers of a batch together, padding included; `look_every`: tokens of each answer between two looks at
    whether it has ended."""

    def __init__(
        self,
        begin: Callable[[list[np.ndarray], int], Steps],
        tokens: TextTokens,
        ends: set[int],
        tokens_at_once: int,
        *,
        look_every: int = 1,
    ) -> None:
        self._begin, self._tokens, self._ends = begin, tokens, ends
        self._tokens_at_once, self._look_every = tokens_at_once, look_every

    @torch.inference_mode()
    def __call__(
        self,
        prompts: Sequence[np.ndarray],
        limit: int,
        goes_on: GoesOn,
        sampling: Sampling,
        on_answers: OnAnswers | None,
    ) -> list[str]:
        texts = [""] * len(prompts)
        generator = torch.Generator().manual_seed(sampling.seed)
        for batch in generation_batches(prompts, limit, self._tokens_at_once):
            for finished_answers in self._answer(batch, prompts, limit, goes_on, sampling, generator):
                for question, text in finished_answers:
                    texts[question] = text
                if on_answers:
                    on_answers(finished_answers)
        return texts

    def _answer(
        self,
        batch: list[int],
        prompts: Sequence[np.ndarray],
        limit: int,
        goes_on: GoesOn,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> Iterator[list[tuple[int, str]]]:
        """Questions with their answers, as soon as they are finished."""
        step = self._begin([prompts[i] for i in batch], limit)
        answers: dict[int, list[int]] = {i: [] for i in batch}
        unseen: list[torch.Tensor] = []  # [batch] each: tokens that nobody has looked at
        finished: set[int] = set()  # rows stay until they are a part of the batch: leaving it copies the cache
        for number in range(limit):
            tokens = next_tokens(step.logits, sampling, generator)
            unseen.append(tokens)
            last = number == limit - 1
            if last or len(unseen) == self._look_every:
                columns, unseen = torch.stack(unseen).tolist(), []  # on a device this waits for all of them
                rows = [row for row in range(len(batch)) if row not in finished]
                ended = [row for row in rows if self._ended(batch[row], [c[row] for c in columns], answers, goes_on)]
                ended = rows if last else ended
                finished.update(ended)
                if ended:
                    yield [(batch[row], self._tokens.decode(answers[batch[row]])) for row in ended]
                if len(finished) == len(batch):
                    return
                if len(finished) >= step.leaving * len(batch):
                    rows = [row for row in range(len(batch)) if row not in finished]
                    batch, finished = [batch[row] for row in rows], set()
                    index = torch.tensor(rows, device=tokens.device)
                    tokens = tokens[index]
                    step.keep_rows(index)
            step(tokens)

    def _ended(self, question: int, tokens: list[int], answers: dict[int, list[int]], goes_on: GoesOn) -> bool:
        """Whether a question's answer ends within its next `tokens`; those before the end are added to it."""
        answer = answers[question]
        own = list(takewhile(lambda token: token not in self._ends, tokens))
        if len(tokens) > 1 and goes_on(question, self._tokens.decode([*answer, *own], special=True)):
            answer.extend(own)  # an answer that goes on with all of them has not ended before
            return len(own) < len(tokens)
        for token in own:
            answer.append(token)
            if not goes_on(question, self._tokens.decode(answer, special=True)):
                return True
        return len(own) < len(tokens)
