"""Run a plan: every output tensor, block by block, on a few threads, into shards laid out beforehand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import torch

from weightsmith.checkpoint.shard_writer import ShardWriter
from weightsmith.methods.method import Method
from weightsmith.recipe.plan import TensorPlan

BLOCK = 1 << 18  # elements; results do not depend on threads, and not on this except through float64 sums
CACHE_BYTES = 512 << 20  # tensors whose inputs fit in here (shared by all threads) are read once for both passes

Progress = Callable[[int, int], None]  # bytes done, bytes in all


class Stopped(Exception):
    """Another tensor failed, or the user interrupted."""


class _TensorScan:
    """The inputs of one tensor as float32 blocks; kept after the first pass where they are small."""

    def __init__(self, tensor: TensorPlan, keep: bool, stop: threading.Event) -> None:
        self.numel = tensor.info.numel
        self._tensor, self._stop = tensor, stop
        self._kept: list[list[torch.Tensor]] | None = [] if keep else None
        self._complete = False

    def blocks(self) -> Iterator[list[torch.Tensor]]:
        if self._complete and self._kept is not None:
            yield from self._kept
            return
        if self._kept is not None:
            self._kept.clear()
        for start in range(0, self.numel, BLOCK):
            if self._stop.is_set():
                raise Stopped
            stop = min(start + BLOCK, self.numel)
            blocks = []
            for source in self._tensor.sources:
                block = torch.empty(stop - start, dtype=torch.float32)
                source.model.checkpoint.read(source.tensor, start, stop, block)
                blocks.append(block)
            if self._kept is not None:
                self._kept.append(blocks)
            yield blocks
        self._complete = True


def run_tensors(
    tensors: Sequence[TensorPlan], method: Method, writer: ShardWriter, threads: int, progress: Progress | None = None
) -> int:
    """Compute and write every tensor. Returns the number of elements kept by ties at a trimming threshold."""
    stop, lock, done = threading.Event(), threading.Lock(), 0

    def written(count: int) -> None:
        nonlocal done
        with lock:
            done += count

    largest_first = sorted(tensors, key=lambda tensor: -tensor.info.numel)
    ties, total = 0, sum(tensor.info.nbytes for tensor in tensors)
    intra_op = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pending: set[Future[int]] = {
            pool.submit(_merge_tensor, t, method, writer, threads, stop, written) for t in largest_first
        }
        try:
            while pending:
                finished, pending = wait(pending, timeout=0.1, return_when=FIRST_COMPLETED)
                ties += sum(future.result() for future in finished)
                if progress:
                    progress(done, total)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            torch.set_num_threads(intra_op)
    return ties


def _merge_tensor(
    tensor: TensorPlan,
    method: Method,
    writer: ShardWriter,
    threads: int,
    stop: threading.Event,
    written: Callable[[int], None],
) -> int:
    if tensor.copy:
        for start in range(0, tensor.info.numel, BLOCK):
            end = min(start + BLOCK, tensor.info.numel)
            if stop.is_set():
                raise Stopped
            block = torch.empty(end - start, dtype=tensor.info.torch_dtype)
            tensor.sources[0].model.checkpoint.read(tensor.sources[0].tensor, start, end, block)
            writer.write(tensor.name, start, block)
            written(block.nbytes)
        return 0
    scan = _TensorScan(tensor, len(tensor.sources) * tensor.info.numel * 4 <= CACHE_BYTES // threads, stop)
    statistics = method.statistics(scan, tensor.settings)
    start = 0
    for blocks in scan.blocks():
        merged = method.combine(blocks, tensor.settings, statistics)
        block = merged.to(tensor.round_to).to(tensor.info.torch_dtype)
        writer.write(tensor.name, start, block)
        start += block.numel()
        written(block.nbytes)
    return statistics.trim_ties
