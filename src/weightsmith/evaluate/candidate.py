"""A merge that is evaluated without being written: its plan is computed straight into memory."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weightsmith.architecture import Model
from weightsmith.checkpoint.tensor import ITEM_SIZES, torch_dtypes
from weightsmith.engine.merge import default_threads
from weightsmith.engine.run_plan import Progress, run_tensors
from weightsmith.recipe.plan import Plan
from weightsmith.tokenizer.extended import extend_tokenizer
from weightsmith.tokenizer.files import write_tokenizer_files


def merged_weights(
    plan: Plan, *, into: Mapping[str, torch.Tensor] | None = None, threads: int | None = None, seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Every tensor of the plan in its output dtype, bit for bit what `merge` would write. Those of `into` that have the name, shape
    and dtype are written in place: the parameters of a live model become those of the next candidate. Raises MergeError."""
    memory = {}
    for tensor in plan.tensors:
        dtype, found = torch_dtypes()[tensor.info.dtype], (into or {}).get(tensor.name)
        fits = found is not None and found.dtype == dtype and found.shape == tensor.info.shape and found.is_contiguous()
        memory[tensor.name] = (
            found.detach() if fits and found is not None else torch.empty(tensor.info.shape, dtype=dtype)
        )
    run_tensors(plan.tensors, plan.method, _Memory(memory, plan), threads or default_threads(), progress, seed=seed)
    return memory


class _Memory:
    """Takes what a shard on the disk would."""

    def __init__(self, tensors: dict[str, torch.Tensor], plan: Plan) -> None:
        self._bytes = {name: _as_bytes(tensor) for name, tensor in tensors.items()}
        self._sizes = {tensor.name: ITEM_SIZES[tensor.info.dtype] for tensor in plan.tensors}

    def write(self, name: str, start: int, block: np.ndarray) -> None:
        """As ShardWriter.write."""
        found = block.view(np.uint8)
        begin = start * self._sizes[name]
        self._bytes[name][begin : begin + len(found)] = found


def _as_bytes(tensor: torch.Tensor) -> np.ndarray:
    return tensor.view(-1).view(torch.uint8).numpy() if tensor.numel() else np.empty(0, np.uint8)


class Candidate:
    """A plan as a model: its configuration and tokenizer lie in a scratch folder while it is in use (`with`)."""

    def __init__(self, plan: Plan, reference: str) -> None:
        self.plan, self.reference = plan, reference

    def __enter__(self) -> Model:
        self._scratch = tempfile.TemporaryDirectory(prefix="weightsmith-")
        folder = Path(self._scratch.name)
        vocabulary = self.plan.vocabulary
        write_tokenizer_files(vocabulary.home if vocabulary else self.plan.home, folder)
        if vocabulary:
            extend_tokenizer(vocabulary, folder)
        return replace(self.plan.home, reference=self.reference, home=folder, config=self.plan.config)

    def __exit__(self, *_: Any) -> None:
        self._scratch.cleanup()
