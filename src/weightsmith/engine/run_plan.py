"""Run a plan: every output tensor, block by block, on a few threads, into shards laid out beforehand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from weightsmith.checkpoint.shard_writer import ShardWriter
from weightsmith.engine.on_threads import on_threads
from weightsmith.engine.tensor_scan import BLOCK, Buffers, Stopped, TensorScan
from weightsmith.methods.method import Method
from weightsmith.recipe.plan import TensorPlan

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass
class Tally:
    """What a run counted. `ties`: elements kept or dropped by a tie at a bound; seconds are those of all threads together."""

    ties: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("read", "statistics", "combine", "write"), 0.0)
    )

    def add(self, other: Tally) -> None:
        self.ties += other.ties
        for name, value in other.seconds.items():
            self.seconds[name] += value


def run_tensors(
    tensors: Sequence[TensorPlan], method: Method, writer: ShardWriter, threads: int, progress: Progress | None = None, *,
    seed: int = 0,
) -> Tally:  # fmt: skip
    """Compute and write every tensor. The bytes depend neither on `threads` nor on the size of blocks."""
    total, tally, buffers = sum(tensor.info.nbytes for tensor in tensors), Tally(), Buffers()
    done = 0

    def work(tensor: TensorPlan, stop: threading.Event) -> Tally:
        if tensor.copy:
            return _copy_tensor(tensor, writer, stop, written)
        return _merge_tensor(tensor, method, writer, buffers, stop, written, seed)

    def written(count: int) -> None:
        nonlocal done
        with lock:
            done += count

    lock = threading.Lock()
    largest_first = sorted(tensors, key=lambda tensor: -tensor.info.numel)
    for one in on_threads(work, largest_first, threads, tick=lambda: progress(done, total) if progress else None):
        tally.add(one)
    return tally


def _copy_tensor(
    tensor: TensorPlan, writer: ShardWriter, stop: threading.Event, written: Callable[[int], None]
) -> Tally:
    source, tally = tensor.sources[0], Tally()
    for start in range(0, tensor.info.numel, BLOCK):
        if stop.is_set():
            raise Stopped
        began = time.perf_counter()
        block = torch.empty(min(BLOCK, tensor.info.numel - start), dtype=tensor.info.torch_dtype)
        source.model.checkpoint.read(source.tensor, start, start + len(block), block)
        read = time.perf_counter()
        writer.write(tensor.name, start, block)
        tally.seconds["read"] += read - began
        tally.seconds["write"] += time.perf_counter() - read
        written(block.nbytes)
    return tally


def _merge_tensor(
    tensor: TensorPlan, method: Method, writer: ShardWriter, buffers: Buffers, stop: threading.Event,
    written: Callable[[int], None], seed: int,
) -> Tally:  # fmt: skip
    scan = TensorScan(tensor, buffers, stop, row_wise=method.row_wise, seed=seed)
    began, tally = time.perf_counter(), Tally()
    statistics = method.statistics(scan, tensor.settings)
    tally.ties = statistics.trim_ties
    tally.seconds["statistics"] = time.perf_counter() - began - scan.read_seconds
    for block in scan.blocks():
        began = time.perf_counter()
        merged = method.fused(block, tensor.settings, statistics)
        rounded = merged.to(tensor.round_to).to(tensor.info.torch_dtype)
        combined = time.perf_counter()
        writer.write(tensor.name, block.start, rounded)
        tally.seconds["combine"] += combined - began
        tally.seconds["write"] += time.perf_counter() - combined
        written(rounded.nbytes)
    tally.seconds["read"] = scan.read_seconds
    return tally
