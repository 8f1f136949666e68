"""What a merge adds to the base, as the two small matrices of a LoRA adapter."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from weightsmith.engine.adapter.plan_adapter import AdaptedWeight, AdapterPlan
from weightsmith.engine.run_tensors import OnBytes, Tally, Writer
from weightsmith.engine.stages.stage_checkpoint import StageCheckpoint
from weightsmith.engine.tensor_scan import BLOCK, Stopped
from weightsmith.engine.workers.on_threads import Stop, on_threads
from weightsmith.errors import MergeError
from weightsmith.planning.plan import TensorPlan, TensorSource

_UNCHANGED = 1e-5  # of the base's length: a smaller difference is rounding


@dataclass(frozen=True)
class AdapterLoss:
    """What the rank leaves out. `lost`: for each weight the squared lengths of the change and of what is not held."""

    lost: Mapping[str, tuple[float, float]]

    @property
    def share(self) -> float:
        """Length of what is lost, relative to the whole change; 0 where nothing changes."""
        change = math.fsum(change for change, _ in self.lost.values())
        return math.sqrt(math.fsum(part for _, part in self.lost.values()) / change) if change else 0.0

    @property
    def worst(self) -> tuple[str, float]:
        """The weight that loses most, and how much."""
        shares = {name: math.sqrt(part / change) if change else 0.0 for name, (change, part) in self.lost.items()}
        return max(shares.items(), key=lambda item: (item[1], item[0]))


def make_adapter(
    plan: AdapterPlan,
    unfinished: Sequence[TensorPlan],
    writer: Writer,
    threads: int,
    on_progress: OnBytes,
    on_tensor: Callable[[str, Tally], None],
    *,
    seed: int,
) -> Tally:
    """Compute and write the pairs of which a part is among `unfinished`. Raises MergeError where the
    merge changes what an adapter cannot hold, and as a merge does."""
    left = {tensor.name for tensor in unfinished}
    weights = [weight for weight in plan.weights if {weight.a, weight.b} & left]
    merged = StageCheckpoint(plan.merged, seed, tolerant=False)
    sizes = {tensor.name: tensor.info.nbytes for tensor in plan.pairs}
    total, done, tally = sum(sizes[w.a] + sizes[w.b] for w in weights), list[int](), Tally()

    def tick() -> None:
        on_progress(sum(done), total)

    def check(other: tuple[TensorPlan, TensorSource], stop: Stop) -> None:
        tensor, base = other
        change, length = 0.0, 0.0
        for start in range(0, tensor.info.numel, BLOCK):
            if stop.is_set():
                raise Stopped
            after, before = _block(merged, base, tensor.name, start, min(tensor.info.numel, start + BLOCK))
            change += float(np.square(after - before, dtype=np.float64).sum())
            length += float(np.square(before, dtype=np.float64).sum())
        if change > _UNCHANGED**2 * length:
            share = math.sqrt(change / length) if length else 1.0
            raise MergeError(
                f"tensor {tensor.name!r}: the merge changes it, by {share:.2g} of its length, and a LoRA adapter holds "
                "linear layers alone; with `embeddings: base` and `vectors: base` methods of matrices leave the others "
                "as they are; or write full weights"
            )

    for _ in on_threads(check, plan.others, threads, tick=tick):
        pass

    def work(weight: AdaptedWeight, stop: Stop) -> tuple[AdaptedWeight, list[Tally]]:
        began = time.perf_counter()
        change = _change(merged, weight, stop)
        a, b, whole, held = _factors(change, plan.rank)
        lost = {weight.tensor.name: (whole, max(0.0, whole - held))}
        tallies = []
        for name, values in ((weight.a, a), (weight.b, b)):
            stored = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8)
            writer.write(name, 0, stored)
            own = Tally(digests={name: xxhash.xxh3_128(stored.data).hexdigest()}, lost=lost)
            tallies.append(own)
            on_tensor(name, own)
        tallies[0].seconds["combine"] = time.perf_counter() - began
        return weight, tallies

    for weight, tallies in on_threads(work, weights, threads, tick=tick):
        for own in tallies:
            tally.add(own)
        done.append(sizes[weight.a] + sizes[weight.b])
    tick()
    return tally


def _block(
    merged: StageCheckpoint, base: TensorSource, name: str, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """float32: elements of the result, and of the base."""
    after, before = np.empty(stop - start, np.float32), np.empty(stop - start, np.float32)
    merged.read(name, start, stop, after)
    base.model.checkpoint.read(base.tensor, start, stop, before)
    return after, before


def _change(merged: StageCheckpoint, weight: AdaptedWeight, stop: Stop) -> np.ndarray:
    """float32 [outputs, inputs]."""
    tensor = weight.tensor
    change = np.empty(tensor.info.numel, np.float32)
    for start in range(0, len(change), BLOCK):
        if stop.is_set():
            raise Stopped
        end = min(len(change), start + BLOCK)
        after, before = _block(merged, weight.base, tensor.name, start, end)
        np.subtract(after, before, out=change[start:end])
    matrix = change.reshape(tensor.info.shape)
    return matrix.T if weight.transposed else matrix


def _factors(change: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, float, float]:
    """a [rank, inputs], b [outputs, rank], whose product is nearest to `change`; squared lengths of both."""
    import torch

    from weightsmith.methods.matrices.linear_algebra import top_svd

    matrix = torch.from_numpy(np.ascontiguousarray(change))
    u, s, v = top_svd(matrix, rank)
    roots = s.sqrt()
    a, b = np.zeros((rank, change.shape[1]), np.float32), np.zeros((change.shape[0], rank), np.float32)
    a[: len(s)], b[:, : len(s)] = (v * roots).T.numpy(), (u * roots).numpy()
    return a, b, float(matrix.double().square().sum()), float(s.double().square().sum())
