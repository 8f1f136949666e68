"""The result of a merge as a checkpoint whose weights are computed when they are read: one stage of a recipe feeds the
next without being written."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np

from weightsmith.checkpoint.checkpoint import TensorInfo
from weightsmith.checkpoint.dtypes import convert
from weightsmith.engine.know_whole_model import know_whole_model
from weightsmith.engine.run_tensors import BlockMaker, RunSettings, statistics_of
from weightsmith.engine.tensor_scan import Buffers, TensorScan
from weightsmith.machine import available_cores
from weightsmith.methods.method import Statistics
from weightsmith.models.model import Model
from weightsmith.planning.plan import Plan, TensorPlan


class StageCheckpoint:
    """See `checkpoint.checkpoint.Checkpoint`. Elements are what the merge would have written, bit for bit; what a
    method has to know of a whole tensor is gathered when it is first read. What the merge would refuse is refused."""

    def __init__(self, plan: Plan, seed: int, *, tolerant: bool) -> None:
        self.tensors: Mapping[str, TensorInfo] = {tensor.name: tensor.info for tensor in plan.tensors}
        self._plan, self._by_name = plan, dict[str, TensorPlan]()
        self._method, self._seed, self._tolerant, self._buffers = plan.method, seed, tolerant, Buffers()
        self._statistics: dict[tuple[str, int], Statistics] = {}
        if plan.method.needs_torch:
            import torch  # noqa: F401  # before threads read, each of which would import it at once
        self._lock, self._locks = threading.Lock(), dict[str, threading.Lock]()

    @property
    def _plans(self) -> dict[str, TensorPlan]:
        if self._by_name:
            return self._by_name
        with self._lock:
            if not self._by_name:
                settings = RunSettings(self._seed, tolerant=self._tolerant)
                known = know_whole_model(self._plan, available_cores(), settings)
                self._by_name = {tensor.name: tensor for tensor in known.tensors}
            return self._by_name

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        tensor = self._plans[name]
        if tensor.copy:
            stored = np.empty(stop - start, tensor.info.numpy_dtype)  # rounded as it would be on the disk
            tensor.sources[0].model.checkpoint.read(tensor.sources[0].tensor, start, stop, stored)
            return convert(stored, out)
        begin = 0
        for end in tensor.matrix_ends:
            if start < end and stop > begin:
                low, high = max(start, begin), min(stop, end)
                self._read_part(name, (begin, end), low, high, out[low - start : high - start])
            begin = end

    def _read_part(self, name: str, part: tuple[int, int], start: int, stop: int, out: np.ndarray) -> None:
        tensor, statistics = self._plans[name], self._statistics_of(name, part)
        scan = self._scan(name, part)
        width = max(1, scan.width) if self._method.row_wise else 1
        first = (start - part[0]) // width * width
        scan.restrict(first, min(scan.numel, -(-(stop - part[0]) // width) * width))
        maker = BlockMaker(self._method, scan, statistics, self._buffers, self._tolerant)
        for block in scan.blocks():
            stored, _ = maker.make(block)
            values = stored.view(tensor.info.numpy_dtype)
            low, high = max(start, block.start), min(stop, block.start + len(values))
            if low < high:
                convert(values[low - block.start : high - block.start], out[low - start : high - start])

    def _statistics_of(self, name: str, part: tuple[int, int]) -> Statistics:
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            key = (name, part[0])
            if key not in self._statistics:
                self._statistics[key] = statistics_of(self._method, self._scan(name, part))
            return self._statistics[key]

    def _scan(self, name: str, part: tuple[int, int]) -> TensorScan:
        row_wise = self._method.row_wise
        return TensorScan(
            self._plans[name], self._buffers, threading.Event(), row_wise=row_wise, seed=self._seed, part=part
        )


def stage_model(name: str, plan: Plan, seed: int, *, tolerant: bool) -> Model:
    """The result of `plan` as a model that other stages call `name`. `tolerant`: NaN and infinities in its inputs are
    let through."""
    files = dict.fromkeys(file for model in plan.models.values() for file in model.files)
    return Model(name, StageCheckpoint(plan, seed, tolerant=tolerant), plan.config, plan.home.home, tuple(files))


def can_stream(plan: Plan) -> bool:
    """Whether the result can be read without being written: its tokenizer is one of the inputs' own, and its experts
    lie as they are merged."""
    straight = all(tensor.experts is None or tensor.experts.is_straight for tensor in plan.tensors)
    return plan.vocabulary is None and plan.chat_template is None and straight
