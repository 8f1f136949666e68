"""Answers by a live `transformers` model, many at a time: nothing that prompts share is read twice, finished answers
leave the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from weightsmith.evaluation.backend import GoesOn, OnAnswers, Sampling
from weightsmith.evaluation.generation.generation_batches import generation_batches
from weightsmith.evaluation.generation.growing_cache import cache_argument, growing_cache, padded_together
from weightsmith.evaluation.generation.next_token import next_tokens
from weightsmith.evaluation.scoring.prefix_tree import common_prefix
from weightsmith.evaluation.text_tokens import TextTokens

_LEAVING = 0.2  # of a batch


class BatchGeneration:
    """`tokens_at_once`: positions of all prompts and answers of a batch together, padding included; `look_every`:
    tokens of each answer between two looks at whether it has ended."""

    def __init__(
        self, model: Any, tokens: TextTokens, ends: set[int], tokens_at_once: int, *, look_every: int = 1
    ) -> None:
        self._model, self._tokens, self._ends = model, tokens, ends
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
        widest = max(len(prompts[i]) for i in batch)
        first_logits: list[torch.Tensor] = []
        cache: Any = padded_together(self._read([prompts[i] for i in batch], first_logits), len(batch), widest, limit)
        device = self._model.device
        mask = torch.tensor([[0] * (widest - len(prompts[i])) + [1] * len(prompts[i]) for i in batch], device=device)
        positions = torch.tensor([[len(prompts[i])] for i in batch], device=device)
        answers: dict[int, list[int]] = {i: [] for i in batch}
        logits = torch.cat(first_logits)
        unseen: list[torch.Tensor] = []  # [batch] each: tokens that nobody has looked at
        finished: set[int] = set()  # rows stay until they are a part of the batch: leaving it copies the cache
        for step in range(limit):
            tokens = next_tokens(logits, sampling, generator)
            unseen.append(tokens)
            last = step == limit - 1
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
                if len(finished) >= _LEAVING * len(batch):
                    rows = [row for row in range(len(batch)) if row not in finished]
                    batch, finished = [batch[row] for row in rows], set()
                    index = torch.tensor(rows, device=device)
                    tokens, mask, positions = tokens[index], mask[index], positions[index]
                    cache.batch_select_indices(index)
            mask = torch.cat([mask, mask.new_ones(len(batch), 1)], 1)
            logits = self._model(
                input_ids=tokens[:, None],
                attention_mask=mask,
                position_ids=positions,
                **cache_argument(self._model, cache),
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            positions = positions + 1

    def _ended(self, question: int, tokens: list[int], answers: dict[int, list[int]], goes_on: GoesOn) -> bool:
        """Whether a question's answer ends within its next `tokens`; those before the end are added to it."""
        for token in tokens:
            if token in self._ends:
                return True
            answers[question].append(token)
            if not goes_on(question, self._tokens.decode(answers[question], special=True)):
                return True
        return False

    def _read(self, prompts: Sequence[np.ndarray], first_logits: list[torch.Tensor]) -> Iterator[Any]:
        """The same cache for each of the sorted prompts, whose last logits go to `first_logits`."""
        cache: Any = growing_cache()
        before = np.zeros(0, np.int32)
        for prompt in prompts:
            kept = min(common_prefix(before, prompt), len(prompt) - 1)
            cache.crop(kept - cache.get_seq_length())
            ids = torch.from_numpy(prompt[kept:].astype(np.int64))[None].to(self._model.device)
            first_logits.append(
                self._model(
                    input_ids=ids, **cache_argument(self._model, cache), use_cache=True, logits_to_keep=1
                ).logits[:, -1]
            )
            yield cache
            before = prompt
