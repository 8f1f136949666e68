"""A batch on a device, which multiplies many rows as fast as one and waits for the processor after each small step: so
prompts are read many at a time, and a step's shapes stay as they are, which lets CUDA repeat it as one graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from weightsmith.evaluation.generation.attention_masks import attention_masks
from weightsmith.evaluation.generation.fixed_cache import FixedCache
from weightsmith.evaluation.generation.growing_cache import cache_argument, growing_cache
from weightsmith.evaluation.scoring.prefix_tree import common_prefix

_WORTH_A_GRAPH = 16  # steps to come: making it takes some tens of milliseconds
_LONG = 64  # tokens: prompts with a common beginning of more are not read with others


class FixedSteps:
    """As `Steps` of batch_generation.py, for sorted int32 `prompts` and `limit` tokens after each. `read_at_once`:
    tokens of prompts in one pass, padding included."""

    leaving = 0.5  # half of a batch: a smaller one is another graph

    def __init__(self, model: Any, prompts: list[np.ndarray], limit: int, *, read_at_once: int) -> None:
        self._model, self._device = model, model.device
        widest = max(map(len, prompts))
        self._cache = FixedCache(len(prompts), widest + limit)
        self._visible = torch.zeros(len(prompts), widest + limit, dtype=torch.bool, device=self._device)
        self._key_positions = torch.zeros(self._visible.shape, dtype=torch.int64, device=self._device)
        self._column = torch.full((1,), widest, device=self._device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self._device)
        self._positions = lengths[:, None]  # [rows, 1]: where the next tokens are
        self._tokens = torch.zeros_like(self._positions)
        self.logits = torch.cat(list(self._read(prompts, widest, read_at_once)))
        self._cache.place.column = self._column
        self._repeated, self._left = 0, limit
        self._graph, self._has_graphs = None, self._device.type == "cuda"

    def __call__(self, tokens: torch.Tensor) -> None:
        """`tokens`: int64 [rows]."""
        self._tokens.copy_(tokens[:, None])
        with torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
            # The first two steps make what a graph needs to be there already.
            if self._has_graphs and self._graph is None and self._repeated >= 2 and self._left >= _WORTH_A_GRAPH:
                self._capture()
            if self._graph is None:
                self.logits = self._step()
            else:
                self._graph.replay()  # into the same `logits`
        self._repeated, self._left = self._repeated + 1, self._left - 1

    def keep_rows(self, rows: torch.Tensor) -> None:
        self._graph, self._repeated = None, 0
        self._cache.keep_rows(rows)
        self._visible, self._key_positions = self._visible[rows], self._key_positions[rows]
        self._positions, self._tokens = self._positions[rows], self._tokens[rows]

    def _capture(self) -> None:
        """Note the step as a CUDA graph: its hundreds of small operations then start as one. A model that looks at
        numbers on the way, as experts do, has none."""
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may be at work on other devices.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.logits = self._step()
            self._graph = graph
        except RuntimeError:
            self._has_graphs = False

    def _step(self) -> torch.Tensor:
        """[rows, vocabulary] after one more token. Nothing here depends on where the batch is but what the device
        holds."""
        self._visible.index_fill_(1, self._column, True)
        self._key_positions.index_copy_(1, self._column, self._positions)
        masks = attention_masks(self._model, self._visible[:, None], self._positions, self._key_positions)
        logits = self._run(self._tokens, self._positions, masks, self._cache)
        self._positions += 1
        self._column += 1
        return logits

    def _run(self, tokens: torch.Tensor, positions: torch.Tensor, masks: Any, cache: Any) -> torch.Tensor:
        """[rows, vocabulary] after the last of `tokens`, [rows, tokens]."""
        return self._model(
            input_ids=tokens,
            attention_mask=masks,
            position_ids=positions,
            **cache_argument(self._model, cache),
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def _read(self, prompts: list[np.ndarray], widest: int, at_once: int) -> Iterator[torch.Tensor]:
        """Read sorted prompts; gives [some rows, vocabulary]. A row begins with what it has in common with those that
        are read with it, which is read once, and ends at column `widest`."""
        stem: Any = growing_cache()
        of_stem = np.zeros(0, np.int32)
        for first, last, common in _groups(prompts, at_once):
            kept = common_prefix(of_stem, prompts[first][:common])
            stem.crop(kept - stem.get_seq_length())
            of_stem = prompts[first][:common]
            if kept < common:
                tokens = torch.from_numpy(of_stem[kept:].astype(np.int64))[None].to(self._device)
                self._model(input_ids=tokens, **cache_argument(self._model, stem), use_cache=True, logits_to_keep=1)
            if common:
                self._cache.put(stem, first, last)
            yield self._read_group(prompts[first:last], first, common, widest)

    def _read_group(self, prompts: list[np.ndarray], first: int, common: int, widest: int) -> torch.Tensor:
        last, longest = first + len(prompts), max(map(len, prompts)) - common
        tokens = np.zeros((len(prompts), longest), np.int64)
        starts = np.array([widest - (len(prompt) - common) for prompt in prompts])  # columns
        for row, prompt in enumerate(prompts):
            tokens[row, longest - (len(prompt) - common) :] = prompt[common:]
        columns = np.arange(widest)
        key_positions = np.where(columns < common, columns, np.maximum(columns - starts[:, None] + common, 0))
        visible = (columns < common) | (columns >= starts[:, None])
        self._visible[first:last, :widest] = torch.from_numpy(visible).to(self._device)
        self._key_positions[first:last, :widest] = torch.from_numpy(key_positions).to(self._device)
        column = torch.arange(widest, device=self._device)
        causal = column <= column[-longest:, None]
        positions = self._key_positions[first:last, widest - longest : widest]
        masks = attention_masks(
            self._model,
            self._visible[first:last, None, :widest] & causal,
            positions,
            self._key_positions[first:last, :widest],
        )
        self._cache.part(first, last, widest)
        return self._run(torch.from_numpy(tokens).to(self._device), positions, masks, self._cache)


def _groups(prompts: list[np.ndarray], at_once: int) -> Iterator[tuple[int, int, int]]:
    """(first, last, tokens of their common beginning): sorted prompts that are read together. Of each at least one
    token is left. Those that share much are not read with one that would have it read again for each."""
    shared = [*(common_prefix(a, b) for a, b in pairwise(prompts)), 0]  # with the next one
    first = 0
    while first < len(prompts):
        last, common, longest = first + 1, len(prompts[first]) - 1, len(prompts[first])
        while last < len(prompts):
            fewer, wider = min(common, shared[last - 1], len(prompts[last]) - 1), max(longest, len(prompts[last]))
            much = max(shared[last], common if last > first + 1 else 0)  # one prompt shares nothing yet
            if (last + 1 - first) * (wider - fewer) > at_once or (much > _LONG and fewer < much / 2):
                break
            last, common, longest = last + 1, fewer, wider
        yield first, last, common
        first = last
