"""A prefix tree run by a `transformers` model.

The nodes of a step go through the model as one sequence, with their positions in the tree and a mask that shows each
its ancestors (as in SpecInfer's tree attention, https://arxiv.org/abs/2305.09781), so nothing is padded. Logits are
computed at the nodes that predict something, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from weightsmith.evaluation.generation.attention_masks import attention_masks
from weightsmith.evaluation.generation.growing_cache import cache_argument, growing_cache
from weightsmith.evaluation.scoring.prefix_tree import Step
from weightsmith.evaluation.scoring.tree_scorer import Prediction, Targets

_ROWS = 256  # logits taken apart at once: [rows, vocabulary] in float32


class TransformersTree:
    """`predict` of `score_tree`; holds the keys and values of the stems, and nothing else between steps."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = growing_cache()

    @torch.inference_mode()
    def __call__(self, step: Step, targets: Targets) -> Iterator[Prediction]:
        self._cache.crop(step.depth - self._cache.get_seq_length())
        nodes = sorted(targets)
        device = self._model.device
        logits = self._model(
            input_ids=torch.from_numpy(step.tokens)[None].to(device),
            position_ids=torch.from_numpy(step.positions)[None].to(device),
            attention_mask=self._masks(step),
            **cache_argument(self._model, self._cache),
            use_cache=True,
            logits_to_keep=torch.tensor(nodes, device=device) if nodes else 1,
        ).logits[0]
        for first in range(0, len(nodes), _ROWS):
            rows = logits[first : first + _ROWS].float()
            log_sums, most_likely = rows.logsumexp(-1).tolist(), rows.argmax(-1).tolist()
            wanted = [
                (row, sequence, token)
                for row, node in enumerate(nodes[first : first + _ROWS])
                for sequence, token in targets[node]
            ]
            if not wanted:
                continue
            at = torch.tensor([[row, token] for row, _, token in wanted], device=device).T
            for (row, sequence, _), logit in zip(wanted, rows[at[0], at[1]].tolist(), strict=True):
                yield Prediction(sequence, logit - log_sums[row], most_likely[row])

    def _masks(self, step: Step) -> torch.Tensor | dict[str, torch.Tensor] | None:
        """[1, 1, nodes, stems + nodes], 0 where a node attends; by kind of layer where some see a window only. None for
        a plain sequence from the first position: attention then skips the half that is masked."""
        if not step.depth and np.array_equal(step.parents, np.arange(len(step.parents)) - 1):
            return None
        device = self._model.device
        ends, positions = (torch.from_numpy(numbers).to(device) for numbers in (step.ends(), step.positions))
        nodes = torch.arange(len(ends), device=device)
        of_step = (nodes <= nodes[:, None]) & (nodes[:, None] < ends)
        visible = torch.cat([of_step.new_ones(len(ends), step.depth), of_step], dim=1)
        key_positions = torch.cat([torch.arange(step.depth, device=device), positions])
        return attention_masks(self._model, visible[None], positions[None], key_positions[None])
