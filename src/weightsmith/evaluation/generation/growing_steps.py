"""A batch on the processor: nothing that prompts share is read twice, one prompt after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from weightsmith.evaluation.generation.growing_cache import cache_argument, growing_cache, padded_together
from weightsmith.evaluation.scoring.prefix_tree import common_prefix


class GrowingSteps:
    """As `Steps` of batch_generation.py, for sorted int32 `prompts` and `limit` tokens after each."""

    leaving = 0.2  # of a batch

    def __init__(self, model: Any, prompts: Sequence[np.ndarray], limit: int) -> None:
        self._model, device = model, model.device
        widest, first_logits = max(map(len, prompts)), list[torch.Tensor]()
        self._cache: Any = padded_together(self._read(prompts, first_logits), len(prompts), widest, limit)
        self._mask = torch.tensor([[0] * (widest - len(p)) + [1] * len(p) for p in prompts], device=device)
        self._positions = torch.tensor([[len(prompt)] for prompt in prompts], device=device)
        self.logits = torch.cat(first_logits)

    def __call__(self, tokens: torch.Tensor) -> None:
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], 1)
        self.logits = self._model(
            input_ids=tokens[:, None],
            attention_mask=self._mask,
            position_ids=self._positions,
            **cache_argument(self._model, self._cache),
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        self._positions = self._positions + 1

    def keep_rows(self, rows: torch.Tensor) -> None:
        self._mask, self._positions = self._mask[rows], self._positions[rows]
        self._cache.batch_select_indices(rows)

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
