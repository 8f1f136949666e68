"""Answers by a live `transformers` model, many at a time: nothing that prompts share is read twice, finished answers leave the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from weightsmith.evaluate.backend import Answered, Live, Sampling
from weightsmith.evaluate.generation_batches import generation_batches
from weightsmith.evaluate.growing_cache import growing_cache, padded_together
from weightsmith.evaluate.next_token import next_tokens
from weightsmith.evaluate.prefix_tree import common_prefix
from weightsmith.evaluate.text_tokens import TextTokens

_LEAVING = 0.2  # of a batch


class BatchGeneration:
    """`tokens_at_once`: positions of all prompts and answers of a batch together, padding included."""

    def __init__(self, model: Any, tokens: TextTokens, ends: set[int], tokens_at_once: int) -> None:
        self._model, self._tokens, self._ends = model, tokens, ends
        self._tokens_at_once = tokens_at_once

    @torch.inference_mode()
    def __call__(
        self, prompts: Sequence[np.ndarray], limit: int, live: Live, sampling: Sampling, answered: Answered | None
    ) -> list[str]:
        texts = [""] * len(prompts)
        generator = torch.Generator().manual_seed(sampling.seed)
        for batch in generation_batches(prompts, limit, self._tokens_at_once):
            for found in self._answer(batch, prompts, limit, live, sampling, generator):
                for question, text in found:
                    texts[question] = text
                if answered:
                    answered(found)
        return texts

    def _answer(
        self, alive: list[int], prompts: Sequence[np.ndarray], limit: int, live: Live, sampling: Sampling,
        generator: torch.Generator,
    ) -> Iterator[list[tuple[int, str]]]:  # fmt: skip
        """Questions with their answers, as soon as they are finished."""
        widest = max(len(prompts[i]) for i in alive)
        first: list[torch.Tensor] = []
        cache: Any = padded_together(self._read([prompts[i] for i in alive], first), len(alive), widest, limit)
        seen = torch.tensor([[0] * (widest - len(prompts[i])) + [1] * len(prompts[i]) for i in alive])
        positions = torch.tensor([[len(prompts[i])] for i in alive])
        answers: dict[int, list[int]] = {i: [] for i in alive}
        texts = dict.fromkeys(alive, "")
        logits = torch.cat(first)
        finished: set[int] = set()  # rows stay until they are a part of the batch: leaving it copies the cache
        for step in range(limit):
            following = next_tokens(logits, sampling, generator)
            before = set(finished)
            for row, token in enumerate(following.tolist()):
                question = alive[row]
                if row in finished:
                    continue
                if token not in self._ends:
                    answers[question].append(token)
                    texts[question] = self._tokens.decode(answers[question])
                    if live(question, self._tokens.decode(answers[question], special=True)):
                        continue
                finished.add(row)
            if step == limit - 1:
                finished = set(range(len(alive)))
            if found := [(alive[row], texts[alive[row]]) for row in sorted(finished - before)]:
                yield found
            if len(finished) == len(alive):
                return
            if len(finished) >= _LEAVING * len(alive):
                index = torch.tensor([row for row in range(len(alive)) if row not in finished])
                alive, finished = [alive[row] for row in index], set()
                following, seen, positions = following[index], seen[index], positions[index]
                cache.batch_select_indices(index)
            seen = torch.cat([seen, seen.new_ones(len(alive), 1)], 1)
            logits = self._model(
                input_ids=following[:, None], attention_mask=seen, position_ids=positions, past_key_values=cache,
                use_cache=True, logits_to_keep=1,
            ).logits[:, -1]  # fmt: skip
            positions = positions + 1

    def _read(self, prompts: Sequence[np.ndarray], first: list[torch.Tensor]) -> Iterator[Any]:
        """The same cache for each of the sorted prompts, whose last logits go to `first`."""
        cache: Any = growing_cache()
        before = np.zeros(0, np.int32)
        for prompt in prompts:
            kept = min(common_prefix(before, prompt), len(prompt) - 1)
            cache.crop(kept - cache.get_seq_length())
            ids = torch.from_numpy(prompt[kept:].astype(np.int64))[None]
            first.append(
                self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
            )
            yield cache
            before = prompt
