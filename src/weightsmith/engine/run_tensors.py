"""Run a plan: every output tensor, block by block, on a few threads, into shards laid out beforehand."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import xxhash

from weightsmith.blocks.block import Block
from weightsmith.blocks.convert import DTYPE_CODES, STORE_BESIDE, store
from weightsmith.blocks.on_device.device_store import device_store
from weightsmith.checkpoint.dtypes import ITEM_SIZES
from weightsmith.engine.tensor_scan import BLOCK, Bounds, Buffers, Stopped, TensorScan
from weightsmith.engine.workers.device_inputs import DeviceInputs
from weightsmith.engine.workers.device_streams import Devices
from weightsmith.engine.workers.on_processes import Count, forks, on_workers
from weightsmith.engine.workers.on_threads import Stop, on_threads
from weightsmith.errors import MergeError
from weightsmith.methods.method import Method, Statistics
from weightsmith.planning.plan import TensorPlan

if TYPE_CHECKING:
    import torch

OnBytes = Callable[[int, int], None]  # bytes done, bytes in all


class Writer(Protocol):
    """Where blocks go: `ShardWriter`, or memory."""

    def write(self, name: str, start: int, block: np.ndarray) -> None: ...


@runtime_checkable
class DeviceWriter(Protocol):
    """A writer that has memory on a device for some tensors."""

    def on_device(self, name: str) -> torch.Tensor | None:
        """uint8 [bytes of the tensor], to be written; its bytes then have no digest."""
        ...


@dataclass(frozen=True)
class NotFinite:
    """NaN and infinite elements of one input of one tensor."""

    tensor: str
    model: str
    nan: int
    infinite: int


@dataclass
class Tally:
    """What a run counted. `ties`: elements kept or dropped by a tie at a bound; `digests`: XXH3 of each tensor's bytes;
    `lost`: of weights that an adapter holds, squared lengths of the change and of what its rank leaves out; seconds are
    those of all threads together."""

    ties: int = 0
    digests: dict[str, str] = field(default_factory=dict)
    not_finite: list[NotFinite] = field(default_factory=list)
    lost: dict[str, tuple[float, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("read", "statistics", "combine", "write"), 0.0)
    )

    def add(self, other: Tally) -> None:
        self.ties += other.ties
        self.digests |= other.digests
        self.not_finite += other.not_finite
        self.lost |= other.lost
        for name, value in other.seconds.items():
            self.seconds[name] += value


@dataclass(frozen=True)
class RunSettings:
    """How tensors are computed. `seed`: of methods that draw random numbers; `tolerant`: NaN and infinities in the
    inputs are counted and let through; `device`: one, or several in the form `cuda:0,cuda:1`; `memory`: bytes on each
    that may be taken; `bounds` knows what need not be counted again, `device_inputs` what need not be copied again."""

    seed: int = 0
    tolerant: bool = False
    device: str = "cpu"
    memory: int | None = None
    bounds: Bounds | None = None
    device_inputs: DeviceInputs | None = None


DEFAULT_RUN = RunSettings()


@dataclass(frozen=True)
class _Run:
    """What all tensors of a run share."""

    method: Method
    writer: Writer
    buffers: Buffers
    written: Callable[[int], None]
    settings: RunSettings
    block: int | None  # elements, where it is not the usual number


def run_tensors(
    tensors: Sequence[TensorPlan],
    method: Method,
    writer: Writer,
    threads: int,
    on_progress: OnBytes | None = None,
    *,
    settings: RunSettings = DEFAULT_RUN,
    on_tensor: Callable[[str, Tally], None] | None = None,
    may_fork: bool = False,
) -> Tally:
    """Compute and write every tensor. The bytes depend neither on `threads` nor on the size of blocks. `on_tensor` is
    called for each that is written. `may_fork`: what `writer` is given from a forked process arrives, so that many
    threads can be processes. Raises MergeError for NaN and infinities in the inputs, unless `settings.tolerant`, and
    for results that the output dtype cannot hold."""
    total, tally = sum(tensor.info.nbytes for tensor in tensors), Tally()
    may_fork = may_fork and settings.device == "cpu" and settings.bounds is None and not method.needs_torch
    on_cores = on_workers if may_fork else on_threads
    done = Count(across=may_fork and forks(threads))
    if method.needs_torch or settings.device != "cpu":
        import torch  # noqa: F401  # before the threads start, each of which then has it compute with one

    devices = Devices(settings.device)
    pace = devices.pace(threads, tensors, method, settings.memory)
    run = _Run(method, writer, Buffers(settings.device), done.add, settings, pace.block)
    if settings.device == "cpu":
        STORE_BESIDE.start(pace.threads, method.compile_ahead)

    def work(tensor: TensorPlan, stop: Stop) -> tuple[str, Tally]:
        with devices.work() as device:
            if tensor.copy:
                return tensor.name, _copy_tensor(tensor, run, stop)
            return tensor.name, _merge_tensor(tensor, run, device, stop)

    def tick() -> None:
        if on_progress:
            on_progress(done.now, total)

    ordered = sorted(tensors, key=lambda tensor: (not tensor.copy, -tensor.info.numel))
    for name, tensor_tally in on_cores(work, ordered, pace.threads, tick=tick):
        if on_tensor:
            on_tensor(name, tensor_tally)
        tally.add(tensor_tally)
    tick()
    return tally


def _copy_tensor(tensor: TensorPlan, run: _Run, stop: Stop) -> Tally:
    source, tally, output = tensor.sources[0], Tally(), _Output(tensor, run)
    memory = np.empty(min(BLOCK, tensor.info.numel), tensor.info.numpy_dtype)
    for start in range(0, tensor.info.numel, BLOCK):
        if stop.is_set():
            raise Stopped
        began = time.perf_counter()
        block = memory[: min(BLOCK, tensor.info.numel - start)]
        source.model.checkpoint.read(source.tensor, start, start + len(block), block)
        read = time.perf_counter()
        output.write(start, block.view(np.uint8))
        tally.seconds["read"] += read - began
        tally.seconds["write"] += time.perf_counter() - read
    tally.digests[tensor.name] = output.digest.hexdigest()
    return tally


def _merge_tensor(tensor: TensorPlan, run: _Run, device: str, stop: Stop) -> Tally:
    tally, output = Tally(), _Output(tensor, run)
    ends = tensor.matrix_ends
    for part in zip((0, *ends[:-1]), ends, strict=True):
        _merge_part(tensor, part, run, device, stop, tally, output)
    if output.on_device is None:
        tally.digests[tensor.name] = output.digest.hexdigest()
    return tally


class _Output:
    """Where the blocks of one tensor go, in their order. Experts that are not stored straight are kept until one is
    whole."""

    def __init__(self, tensor: TensorPlan, run: _Run) -> None:
        self.digest = xxhash.xxh3_128()
        self._tensor, self._run = tensor, run
        self._layout = tensor.experts if tensor.experts and not tensor.experts.is_straight else None
        if self._layout:
            self._item = ITEM_SIZES[tensor.info.dtype]
            self._expert = np.empty(tensor.info.numel // self._layout.experts * self._item, np.uint8)
        self.on_device: torch.Tensor | None = None  # bytes there, where a merge ends in them
        if isinstance(run.writer, DeviceWriter) and self._layout is None and not tensor.copy:
            self.on_device = run.writer.on_device(tensor.name)

    def room(self, start: int, count: int) -> torch.Tensor | None:
        """uint8 [bytes of so many elements] on the device, from element `start` on, where the output is there."""
        if self.on_device is None:
            return None
        size = ITEM_SIZES[self._tensor.info.dtype]
        return self.on_device[start * size : (start + count) * size]

    def write(self, start: int, stored: np.ndarray) -> None:
        if self.on_device is not None:
            return self._run.written(len(stored))
        if self._layout is None:
            return self._write(start, stored)
        size = len(self._expert) // self._item
        number, place = divmod(start, size)
        self._expert[place * self._item : place * self._item + len(stored)] = stored
        if place + len(stored) // self._item == size:
            matrix = self._expert.view(f"u{self._item}").reshape(self._layout.straight_shape[1:])
            self._write(number * size, self._layout.arranged(matrix).reshape(-1).view(np.uint8))

    def _write(self, start: int, stored: np.ndarray) -> None:
        self.digest.update(stored.data)
        self._run.writer.write(self._tensor.name, start, stored)
        self._run.written(len(stored))


def _merge_part(
    tensor: TensorPlan,
    part: tuple[int, int],
    run: _Run,
    device: str,
    stop: Stop,
    tally: Tally,
    output: _Output,
) -> None:
    """Elements of a tensor that are merged as if they were all of it."""
    scan = TensorScan(
        tensor,
        run.buffers,
        stop,
        row_wise=run.method.row_wise,
        seed=run.settings.seed,
        block=run.block,
        device=device,
        bounds=run.settings.bounds,
        device_inputs=run.settings.device_inputs,
        part=part,
    )
    began = time.perf_counter()
    statistics = statistics_of(run.method, scan)
    tally.ties += statistics.trim_ties
    tally.seconds["statistics"] += time.perf_counter() - began - scan.read_seconds
    maker = BlockMaker(run.method, scan, statistics, run.buffers, run.settings.tolerant)
    for block in scan.blocks():
        began = time.perf_counter()
        room = output.room(block.start, len(block.out))
        stored, counts = maker.make(block, room)
        tally.not_finite += counts
        combined = time.perf_counter()
        output.write(block.start, stored)
        tally.seconds["combine"] += combined - began
        tally.seconds["write"] += time.perf_counter() - combined
    tally.seconds["read"] += scan.read_seconds


def make_block(
    method: Method,
    tensor: TensorPlan,
    block: Block,
    statistics: Statistics,
    buffers: Buffers,
    room: torch.Tensor | None = None,
) -> tuple[np.ndarray, int, int]:
    """(uint8, the result for one block as it is stored, in `buffers`; and what `store` says of it). It is computed
    where the block says. What has `room` on the device (uint8) is stored there alone."""
    stored = buffers.out(len(block.out) * ITEM_SIZES[tensor.info.dtype])
    round_to, dtype_code = DTYPE_CODES[tensor.round_to], DTYPE_CODES[tensor.info.dtype]
    if block.device == "cpu":
        merged = method.fused(block, tensor.settings, statistics)
        return stored, *store(merged, round_to, dtype_code, stored)
    merged = method.combine(block, tensor.settings, statistics)  # the plain form, in torch
    return stored, *device_store(merged, round_to, dtype_code, stored if room is None else room)


def statistics_of(method: Method, scan: TensorScan) -> Statistics:
    """What the method has to know of the scan as a whole. Raises MergeError, which names the tensor."""
    try:
        return method.statistics(scan, scan.tensor.settings)
    except MergeError as error:
        raise MergeError(f"tensor {scan.tensor.name!r}: {error}") from error


@dataclass(frozen=True)
class BlockMaker:
    """Makes the blocks of a scan, and checks them. `tolerant`: NaN and infinities in the inputs are counted."""

    method: Method
    scan: TensorScan
    statistics: Statistics
    buffers: Buffers
    tolerant: bool

    def make(self, block: Block, room: torch.Tensor | None = None) -> tuple[np.ndarray, list[NotFinite]]:
        """(uint8, the result as it is stored; NaN and infinities in the block's inputs). What has `room` on the device
        is stored there alone. Raises MergeError for those,
        unless they are tolerated, and for results that the output dtype cannot hold."""
        tensor = self.scan.tensor
        stored, not_finite, largest = make_block(self.method, tensor, block, self.statistics, self.buffers, room)
        if not_finite:
            return stored, self._causes(block)
        if "F16" in (tensor.round_to, tensor.info.dtype):
            _check_float16(tensor, float(np.uint32(largest).view(np.float32)))
        return stored, []

    def _causes(self, block: Block) -> list[NotFinite]:
        """Which inputs a NaN or an infinity came from."""
        counts = _not_finite_inputs(self.scan.tensor, block)
        first, start = (counts[0], block.start) if counts else self._elsewhere
        if first is None:
            raise MergeError(
                f"tensor {self.scan.tensor.name!r}: the result is too large for float32 although all inputs are "
                "finite; check the weights in the recipe"
            )
        if not self.tolerant:
            raise MergeError(
                f"{first.model}: tensor {first.tensor!r} holds {first.nan} NaN and {first.infinite} infinite elements "
                f"from element {start} on; download the model again, or merge anyway with --on-nan warn"
            )
        return counts

    @cached_property
    def _elsewhere(self) -> tuple[NotFinite | None, int]:
        """The first of them in another block, which got here through norms or the like, and where that block begins."""
        for block in self.scan.apart().blocks():
            if counts := _not_finite_inputs(self.scan.tensor, block):
                return counts[0], block.start
        return None, 0


def _not_finite_inputs(tensor: TensorPlan, block: Block) -> list[NotFinite]:
    counts = []
    for source, row in zip(tensor.sources, block.floats(), strict=True):
        nan, infinite = int(np.isnan(row).sum()), int(np.isinf(row).sum())
        if nan or infinite:
            counts.append(NotFinite(tensor.name, source.model.reference, nan, infinite))
    return counts


def _check_float16(tensor: TensorPlan, largest: float) -> None:
    if largest >= 65520:  # rounds to infinity
        raise MergeError(
            f"tensor {tensor.name!r}: the result holds {largest:.6g}, which float16 (at most 65504) cannot hold; use "
            "bfloat16 for `dtype` and `out_dtype`"
        )
