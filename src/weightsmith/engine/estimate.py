"""What a merge will take, before it is run: a little of its real work is done and timed, on the machine and the files
at hand."""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from weightsmith.engine.know_whole_model import know_of_scan
from weightsmith.engine.run_tensors import make_block
from weightsmith.engine.tensor_scan import BLOCK, Buffers, TensorScan
from weightsmith.machine import device_names, peak_memory
from weightsmith.methods.matrices.matrix_method import MatrixMethod
from weightsmith.planning.plan import Plan, TensorPlan
from weightsmith.tokenizer.tokenizer_files import bytes_beside_weights

_GROUPS_TRIED = 16  # kinds of tensors, such as all mlp.fc1, that are tried: those with most elements
_SHORT, _LONG = 3 * BLOCK, 5 * BLOCK  # elements of a tensor that are tried: more than are held whole for a bound
_GAIN = 0.7  # two threads do 1.6 times the work of one, as measured (docs/benchmarks.md)
_PROBE_BYTES = 64 << 20  # written to learn how fast the disk is
_LEAST_PROBE_BYTES = 1 << 20
_MATRIX_TRIED = 1 << 18  # elements of a matrix that are tried as if they were one
_START_UP = 0.9  # seconds until the first block, of which one core is all


@dataclass(frozen=True)
class Estimate:
    """Seconds of wall clock, bytes. `disk_bound`: writing takes longer than reading and computing."""

    seconds: float
    memory_bytes: int
    disk_bytes: int
    disk_free_bytes: int
    beside_bytes: int  # of disk_bytes, what is not weights
    disk_bound: bool
    whole_matrices: int  # how many are held whole, one of each model; those of adapters need not be


def estimate(plan: Plan, out: Path, *, threads: int, device: str = "cpu") -> Estimate:
    """Estimate the merge of `plan` into `out`. Reads some elements of each kind of tensor, and writes a file of at most
    64 MB without a name beside `out`. Raises CheckpointError for weights that cannot be read."""
    device = device_names(device)[0]
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
    matrices = [t for t in plan.tensors if plan.method.of_matrices and not t.copy and t.settings.role == "matrix"]
    whole = {tensor.name for tensor in matrices if not _from_factors(plan, tensor, buffers)}
    # One of each input and three more; of adapters the result alone, in float64 and float32.
    held = max((t.matrix_ends[0] * 4 * (len(t.sources) + 3 if t.name in whole else 4) for t in matrices), default=0)
    parent = next(folder for folder in out.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(parent).free
    writing = plan.output_bytes / _write_rate(parent, min(_PROBE_BYTES, plan.output_bytes, free // 2))
    beside = bytes_beside_weights(plan.home.home, len(plan.tensors))
    return Estimate(
        seconds=max(work, writing) + _START_UP,
        memory_bytes=peak_memory() + (threads - 1) * buffers.nbytes + threads * (_expert_bytes(plan) + held),
        disk_bytes=plan.output_bytes + beside,
        beside_bytes=beside,
        disk_free_bytes=free,
        disk_bound=writing > work,
        whole_matrices=len(whole),
    )


def _seconds_of_group(plan: Plan, tensors: list[TensorPlan], buffers: Buffers, device: str) -> float:
    """Seconds for all tensors of a kind on one thread: each takes some time, and each of its elements some."""
    numel = tensors[0].info.numel
    if tensors[0].settings.role == "matrix":
        return _seconds_of_matrices(plan, tensors, buffers, device)
    short = _seconds(plan, tensors[0], _SHORT, buffers, device)
    if numel <= _SHORT:
        return short * len(tensors)
    count = min(numel, _LONG)
    each = max(0.0, _seconds(plan, tensors[0], _LONG, buffers, device) - short) / (count - _SHORT)
    return sum(short + each * (tensor.info.numel - _SHORT) for tensor in tensors)


def _seconds_of_matrices(plan: Plan, tensors: list[TensorPlan], buffers: Buffers, device: str) -> float:
    """The same of matrices that are taken as a whole: some rows of one are, and the time grows with what the products
    and eigenvalue problems of all of it take. Adapters that are merged from their own matrices take no longer than one
    of them does."""
    if _from_factors(plan, tensors[0], buffers):
        return _seconds(plan, tensors[0], tensors[0].info.numel, buffers, device) * len(tensors)
    ends = tensors[0].matrix_ends
    width = tensors[0].sources[0].model.checkpoint.tensors[tensors[0].sources[0].tensor].shape[-1]
    rows = ends[0] // width
    tried = min(rows, max(1, _MATRIX_TRIED // width))
    layout = tensors[0].settings.matrix
    one = replace(tensors[0], settings=replace(tensors[0].settings, matrix=None))
    seconds = _seconds(plan, one, tried * width, buffers, device)
    parts = [layout.repeats * size for size in layout.sizes] if layout else [rows]
    work = sum(part * width * min(part, width) for part in parts) / (tried * width * min(tried, width))
    return seconds * work * len(ends) * len(tensors)


def _from_factors(plan: Plan, tensor: TensorPlan, buffers: Buffers) -> bool:
    """Whether it is merged from the matrices of adapters, and no task vector is held."""
    if not isinstance(plan.method, MatrixMethod) or tensor.settings.role != "matrix":
        return False
    return plan.method.factors(_scan(plan, tensor, buffers, "cpu"), tensor.settings) is not None


def _scan(plan: Plan, tensor: TensorPlan, buffers: Buffers, device: str) -> TensorScan:
    return TensorScan(tensor, buffers, threading.Event(), row_wise=plan.method.row_wise, seed=0, device=device)


def _seconds(plan: Plan, tensor: TensorPlan, count: int, buffers: Buffers, device: str) -> float:
    """Seconds to read, survey, combine and round about `count` elements of a tensor."""
    times = []
    for to_end in (False, True):  # the first time kernels may have to be compiled
        scan = _scan(plan, tensor, buffers, device)
        scan.shorten(count, to_end=to_end)
        began = time.perf_counter()
        tensor = know_of_scan(plan, tensor, scan)
        statistics = plan.method.statistics(scan, tensor.settings)
        for block in scan.blocks():
            make_block(plan.method, tensor, block, statistics, buffers)
        times.append(time.perf_counter() - began)
    return min(times)


def _expert_bytes(plan: Plan) -> int:
    """Of the largest expert that is put in order before it is written."""
    layouts = ((tensor.experts, tensor.info.nbytes) for tensor in plan.tensors)
    return max((nbytes // e.experts * 2 for e, nbytes in layouts if e and not e.is_straight), default=0)


def _write_rate(folder: Path, count: int) -> float:
    """Bytes per second that reach the disk, measured with `count` of them; infinity where they are too few for that,
    or the disk fills up meanwhile."""
    if count < _LEAST_PROBE_BYTES:
        return math.inf
    megabyte = np.random.default_rng(0).bytes(1 << 20)
    began = time.perf_counter()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for start in range(0, count, len(megabyte)):
                file.write(megabyte[: count - start])
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return math.inf
    return count / (time.perf_counter() - began)
