"""Inputs that cost something to read (LoRA sums, GGUF blocks, rows in another order), computed once and kept in memory,
or in a file where memory is short; plain tensors stay in their files, which the page cache holds."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weightsmith.checkpoint.checkpoint import Checkpoint, TensorInfo
from weightsmith.checkpoint.dtypes import convert, numpy_dtypes
from weightsmith.checkpoint.formats.safetensors_file import SafetensorsFile
from weightsmith.checkpoint.views.adapters.adapted import AdaptedCheckpoint
from weightsmith.checkpoint.views.expert_layout import ExpertLayout
from weightsmith.checkpoint.weights_folder import WeightsFolder
from weightsmith.engine.tensor_scan import BLOCK
from weightsmith.models.model import Model
from weightsmith.planning.plan import TensorPlan, TensorSource

if TYPE_CHECKING:
    import torch


class InputCache:
    """`budget`: bytes of memory; what is beyond is kept in one file in `folder`, mapped into memory."""

    def __init__(self, folder: Path, budget: int) -> None:
        self._folder, self._budget, self._taken = folder, budget, 0
        self._models: dict[tuple[str, ExpertLayout | None, int], _CachedModel] = {}
        self._file: _SpillFile | None = None
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._taken

    def cached(self, tensor: TensorPlan) -> TensorPlan:
        """The same tensor with inputs that are read once."""
        return replace(tensor, sources=tuple(self._source(source, tensor) for source in tensor.sources))

    def _source(self, source: TensorSource, tensor: TensorPlan) -> TensorSource:
        if _is_plain(source.model.checkpoint, source.tensor):
            return source
        key = (source.model.reference, tensor.experts, hash(tuple(source.model.checkpoint.tensors.items())))
        cached = self._models.get(key)
        if cached is None:
            cached = self._models[key] = _CachedModel(source.model, self)
        return TensorSource(cached.view, source.tensor)

    def room(self, info: TensorInfo, dtype: np.dtype) -> np.ndarray:
        """1-d memory for a tensor."""
        needed = info.numel * dtype.itemsize
        with self._lock:
            if self._taken + needed <= self._budget:
                self._taken += needed
                return np.empty(info.numel, dtype)
            if self._file is None:
                self._file = _SpillFile(self._folder)
            return self._file.room(info.numel, dtype)


def _is_plain(checkpoint: Checkpoint, name: str) -> bool:
    """Whether reading it is a copy of bytes."""
    while isinstance(checkpoint, AdaptedCheckpoint) and (inner := checkpoint.unchanged(name)):
        checkpoint = inner
    return isinstance(checkpoint, WeightsFolder | SafetensorsFile)


class _CachedModel:
    """A checkpoint whose tensors are read as a whole the first time, in the dtype that merges read them in."""

    def __init__(self, model: Model, cache: InputCache) -> None:
        self._inner, self._cache = model.checkpoint, cache
        self._arrays: dict[str, np.ndarray] = {}
        self._locks = {name: threading.Lock() for name in model.checkpoint.tensors}
        self.view = replace(model, checkpoint=self)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._inner.tensors

    def low_rank(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        return self._inner.low_rank(name) if isinstance(self._inner, AdaptedCheckpoint) else None

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        convert(self._whole(name)[start:stop], out)

    def _whole(self, name: str) -> np.ndarray:
        with self._locks[name]:
            if name not in self._arrays:
                info = self.tensors[name]
                dtype = numpy_dtypes()["F32" if info.computed else info.dtype]
                array = self._cache.room(info, dtype)
                for start in range(0, info.numel, BLOCK):
                    part = array[start : start + BLOCK]
                    self._inner.read(name, start, start + len(part), part)
                self._arrays[name] = array
            return self._arrays[name]


class _SpillFile:
    """One file without a name, that grows."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # as long as its arrays
        self.size = 0

    def room(self, count: int, dtype: np.dtype) -> np.ndarray:
        start = self.size
        self.size += -(-count * dtype.itemsize // 4096) * 4096
        self._file.truncate(self.size)
        stored = np.uint16 if dtype.itemsize == 2 else dtype
        return np.memmap(self._file, stored, "r+", start, (count,)).view(dtype)
