"""A prefix tree run by a `transformers` model.

The nodes of a step go through the model as one sequence, with their positions in the tree and a mask that shows each its ancestors
(as in SpecInfer's tree attention, https://arxiv.org/abs/2305.09781), so nothing is padded. Logits are computed at the nodes that
predict something, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from weightsmith.evaluate.growing_cache import growing_cache
from weightsmith.evaluate.prefix_tree import Step
from weightsmith.evaluate.tree_scorer import Prediction, Wanted

_ROWS = 256  # logits taken apart at once: [rows, vocabulary] in float32


class TransformersTree:
    """`predict` of `score_tree`; holds the keys and values of the stems, and nothing else between steps."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = growing_cache()

    @torch.inference_mode()
    def __call__(self, step: Step, wanted: Wanted) -> Iterator[Prediction]:
        self._cache.crop(step.depth - self._cache.get_seq_length())
        nodes = sorted(wanted)
        logits = self._model(
            input_ids=torch.from_numpy(step.tokens)[None], position_ids=torch.from_numpy(step.positions)[None],
            attention_mask=self._masks(step), past_key_values=self._cache, use_cache=True,
            logits_to_keep=torch.tensor(nodes) if nodes else 1,
        ).logits[0]  # fmt: skip
        for first in range(0, len(nodes), _ROWS):
            some = logits[first : first + _ROWS].float()
            normal, best = some.logsumexp(-1).tolist(), some.argmax(-1).tolist()
            for row, node in enumerate(nodes[first : first + _ROWS]):
                for sequence, token in wanted[node]:
                    yield Prediction(sequence, float(some[row, token]) - normal[row], best[row])

    def _masks(self, step: Step) -> torch.Tensor | dict[str, torch.Tensor] | None:
        """[1, 1, nodes, stems + nodes], 0 where a node attends; by kind of layer where some see a window only. None for a plain
        sequence from the first position: attention then skips the half that is masked."""
        if not step.depth and np.array_equal(step.parents, np.arange(len(step.parents)) - 1):
            return None
        seen, config = torch.from_numpy(step.mask()), self._model.config
        window, kinds = getattr(config, "sliding_window", None), set(getattr(config, "layer_types", None) or ())
        if not window or (kinds and "sliding_attention" not in kinds):
            return self._additive(seen)
        positions = torch.from_numpy(step.positions)
        keys = torch.cat([torch.arange(step.depth), positions])
        near = self._additive(seen & (positions[:, None] - keys < window))
        return {"full_attention": self._additive(seen), "sliding_attention": near} if kinds else near

    def _additive(self, seen: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(1, 1, *seen.shape, dtype=self._model.dtype)
        mask[0, 0].masked_fill_(~seen, torch.finfo(mask.dtype).min)
        return mask
