"""What a merge will take, before it is run: a little of its real work is done and timed, on the machine and the files
at hand."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weightsmith.engine.run_tensors import make_block
from weightsmith.engine.tensor_scan import BLOCK, Buffers, TensorScan
from weightsmith.files.output_folder import FREE_FOR_SMALL_FILES
from weightsmith.machine import peak_memory
from weightsmith.planning.plan import Plan, TensorPlan

_GROUPS_TRIED = 16  # kinds of tensors, such as all mlp.fc1, that are tried: those with most elements
_SHORT, _LONG = BLOCK, 4 * BLOCK  # elements of a tensor that are tried
_GAIN = 0.7  # two threads do 1.6 times the work of one, as measured (docs/benchmarks.md)
_PROBE = 64  # MB written to learn how fast the disk is
_START_UP = 0.9  # seconds until the first block, of which one core is all


@dataclass(frozen=True)
class Estimate:
    """Seconds of wall clock, bytes. `disk_bound`: writing takes longer than reading and computing."""

    seconds: float
    memory_bytes: int
    disk_bytes: int
    disk_free_bytes: int
    disk_bound: bool


def estimate(plan: Plan, out: Path, *, threads: int, device: str = "cpu") -> Estimate:
    """Estimate the merge of `plan` into `out`. Reads some elements of each kind of tensor, and writes a file of 64 MB
    without a name beside `out`. Raises CheckpointError for weights that cannot be read."""
    groups: dict[str, list[TensorPlan]] = defaultdict(list)
    for tensor in plan.tensors:
        if not tensor.copy and tensor.info.numel:
            groups[re.sub(r"\d+", "", tensor.name)].append(tensor)
    elements = {group: sum(tensor.info.numel for tensor in tensors) for group, tensors in groups.items()}
    largest = sorted(groups, key=lambda group: -elements[group])[:_GROUPS_TRIED]
    buffers, spent, tried = Buffers(), 0.0, 0
    for group in largest:
        spent += _seconds_of_group(plan, groups[group], buffers, device)
        tried += elements[group]
    work = spent * sum(elements.values()) / max(1, tried) / threads**_GAIN
    parent = next(folder for folder in out.absolute().parents if folder.is_dir())
    writing = plan.output_bytes / _write_rate(parent)
    return Estimate(
        seconds=max(work, writing) + _START_UP,
        memory_bytes=peak_memory() + (threads - 1) * buffers.nbytes + threads * _expert_bytes(plan),
        disk_bytes=plan.output_bytes + FREE_FOR_SMALL_FILES,
        disk_free_bytes=shutil.disk_usage(parent).free,
        disk_bound=writing > work,
    )


def _seconds_of_group(plan: Plan, tensors: list[TensorPlan], buffers: Buffers, device: str) -> float:
    """Seconds for all tensors of a kind on one thread: each takes some time, and each of its elements some."""
    numel = tensors[0].info.numel
    short = _seconds(plan, tensors[0], _SHORT, buffers, device)
    if numel <= _SHORT:
        return short * len(tensors)
    count = min(numel, _LONG)
    each = max(0.0, _seconds(plan, tensors[0], _LONG, buffers, device) - short) / (count - _SHORT)
    return sum(short + each * (tensor.info.numel - _SHORT) for tensor in tensors)


def _seconds(plan: Plan, tensor: TensorPlan, count: int, buffers: Buffers, device: str) -> float:
    """Seconds to read, survey, combine and round about `count` elements of a tensor."""
    times = []
    for to_end in (False, True):  # the first time kernels may have to be compiled
        scan = TensorScan(tensor, buffers, threading.Event(), row_wise=plan.method.row_wise, seed=0, device=device)
        scan.shorten(count, to_end=to_end)
        began = time.perf_counter()
        statistics = plan.method.statistics(scan, tensor.settings)
        for block in scan.blocks():
            make_block(plan.method, tensor, block, statistics, buffers)
        times.append(time.perf_counter() - began)
    return min(times)


def _expert_bytes(plan: Plan) -> int:
    """Of the largest expert that is put in order before it is written."""
    layouts = ((tensor.experts, tensor.info.nbytes) for tensor in plan.tensors)
    return max((nbytes // e.experts * 2 for e, nbytes in layouts if e and not e.is_straight), default=0)


def _write_rate(folder: Path) -> float:
    """Bytes per second that reach the disk."""
    megabyte = np.random.default_rng(0).bytes(1 << 20)
    began = time.perf_counter()
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(_PROBE):
            file.write(megabyte)
        file.flush()
        os.fsync(file.fileno())
    return (_PROBE << 20) / (time.perf_counter() - began)
