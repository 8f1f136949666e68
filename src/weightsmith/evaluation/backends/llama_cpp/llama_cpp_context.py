"""A key-value cache of llama.cpp, shared by sequences.

A token of a batch belongs to all sequences that continue from it, and the cache holds it once (`llama_batch.seq_id`,
`llama_memory_seq_cp`; llama.cpp's include/llama.h).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from weightsmith.errors import EvaluationError
from weightsmith.evaluation.backends.llama_cpp.llama_cpp_model import LlamaCppModel

_NO_ROOM, _NOT_ALLOCATED = 1, -2  # what llama_decode returns (include/llama.h; ggml_status)
_FEWEST_CELLS = 256

BatchEntry = tuple[int, int, Sequence[int], bool]  # token, position, sequences, whether its logits are needed


class LlamaCppContext:
    """Room for `cells` positions of `sequences`; `batch_size`: tokens handed over in one call. To be closed with
    `with`."""

    def __init__(
        self,
        model: LlamaCppModel,
        cells: int,
        *,
        sequences: int = 1,
        batch_size: int,
        threads: int,
        on_operation: Any = None,
    ) -> None:
        """`on_operation`: a `ggml_backend_sched_eval_callback`. Raises MemoryError where llama.cpp has no room."""
        self._library, self._path, self._batch_size = model.library, model.path, batch_size
        self._model = model  # a context needs its model's memory
        self._vocabulary_size = model.vocabulary_size
        parameters = self._library.llama_context_default_params()
        parameters.n_ctx, parameters.n_seq_max = max(cells, _FEWEST_CELLS), sequences
        parameters.n_batch = parameters.n_ubatch = batch_size
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.kv_unified = True
        if on_operation is not None:
            parameters.cb_eval = on_operation
        self._pointer = self._library.llama_init_from_model(model.pointer, parameters)
        if not self._pointer:
            raise MemoryError(f"{self._path}: llama.cpp cannot make a context of {cells} tokens")
        self._memory = self._library.llama_get_memory(self._pointer)

    def __enter__(self) -> LlamaCppContext:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.llama_free(self._pointer)

    def copy(self, source: int, target: int, positions: int) -> None:
        """Let `target` see the first `positions` of `source`."""
        self._library.llama_memory_seq_cp(self._memory, source, target, 0, positions)

    def remove(self, sequence: int, position: int) -> None:
        """Forget a sequence (-1: all of them) from `position` on."""
        self._library.llama_memory_seq_rm(self._memory, sequence, position, -1)

    def decode(self, entries: Sequence[BatchEntry]) -> list[np.ndarray]:
        """The logits asked for, float32 [vocabulary] each."""
        logits: list[np.ndarray] = []
        for start in range(0, len(entries), self._batch_size):
            logits += self._decode_batch(entries[start : start + self._batch_size])
        return logits

    def _decode_batch(self, entries: Sequence[BatchEntry]) -> list[np.ndarray]:
        most_sequences = max(len(sequences) for _, _, sequences, _ in entries)
        batch = self._library.llama_batch_init(len(entries), 0, most_sequences)
        try:
            batch.n_tokens = len(entries)
            for i, (token, position, sequences, needs_logits) in enumerate(entries):
                batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, len(sequences)
                for k, sequence in enumerate(sequences):
                    batch.seq_id[i][k] = sequence
                batch.logits[i] = int(needs_logits)
            code = self._library.llama_decode(self._pointer, batch)
            if code in (_NO_ROOM, _NOT_ALLOCATED):
                raise MemoryError(f"{self._path}: llama.cpp has no room for {len(entries)} tokens")
            if code:
                raise EvaluationError(f"{self._path}: llama.cpp stopped with code {code}", path=self._path)
            return [self._logits(i) for i, entry in enumerate(entries) if entry[3]]
        finally:
            self._library.llama_batch_free(batch)

    def _logits(self, i: int) -> np.ndarray:
        row = self._library.llama_get_logits_ith(self._pointer, i)
        return np.ctypeslib.as_array(row, (self._vocabulary_size,)).copy()
