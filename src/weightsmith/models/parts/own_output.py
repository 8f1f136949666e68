"""Whether the output matrix that a model stores is one of its own, or the embedding under a second name.

transformers decides likewise (`PreTrainedModel.tie_weights`): where both are stored, it ties them only if they are
equal, whatever config.json says.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from weightsmith.checkpoint.checkpoint import Checkpoint
from weightsmith.models.parts.embeddings import embedding_name, is_tied, output_name, untied

_BLOCK = 1 << 16  # elements that are compared at once


def own_output(
    checkpoint: Checkpoint, config: dict[str, Any], headers_only: bool
) -> tuple[dict[str, Any], str | None, tuple[str, ...]]:
    """(the configuration, which says whether the two are tied; the output matrix where it is the embedding again;
    notes). With `headers_only` no value can be read, and config.json is believed."""
    output, embedding = output_name(checkpoint.tensors), embedding_name(checkpoint.tensors)
    declared = config.get("tie_word_embeddings")
    if not output or not embedding or declared is False:
        return config, None, ()
    if headers_only or _equal(checkpoint, embedding, output):
        return config, output if is_tied(config) else None, ()
    note = "config.json ties the output matrix to the embedding, and they differ: read as untied"
    return untied(config), None, (note,) if declared else ()


def _equal(checkpoint: Checkpoint, first: str, second: str) -> bool:
    """Whether two tensors hold the same bytes; reads until the first block that differs."""
    info = checkpoint.tensors[first]
    if info != checkpoint.tensors[second]:
        return False
    blocks = np.empty((2, min(_BLOCK, info.numel)), info.numpy_dtype)
    for start in range(0, info.numel, _BLOCK):
        stop = min(info.numel, start + _BLOCK)
        for name, block in zip((first, second), blocks, strict=True):
            checkpoint.read(name, start, stop, block[: stop - start])
        stored = blocks[:, : stop - start].view(np.uint8)
        if not np.array_equal(stored[0], stored[1]):
            return False
    return True
