"""How far fine-tunes moved from their base, where, and whether they pull in the same direction.

A task vector is fine-tune minus base (https://arxiv.org/abs/2212.04089). Where two of them disagree in sign a merge
must choose (https://arxiv.org/abs/2306.01708); where their cosine is near zero they hardly meet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import torch

from weightsmith.engine.workers.on_threads import Stop, on_threads
from weightsmith.models.model import Model
from weightsmith.models.parts.embeddings import embedding_name, output_name
from weightsmith.models.parts.stacks import LAYER

_BLOCK = 1 << 18  # elements per read
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Cell:
    """One module of one layer (`layer` None: outside the layers): `moved` is |task vector| / |base|, one for each
    fine-tune."""

    layer: int | None
    module: str
    moved: tuple[float, ...]


@dataclass(frozen=True)
class Pair:
    """Two fine-tunes. `cosine` of their task vectors, -1 to 1; `sign_agreement`: the share of elements that both moved
    in which they moved the same way, 0.5 for two that have nothing to do with each other; None where none moved."""

    first: str
    second: str
    cosine: float | None
    sign_agreement: float | None
    overlap: float  # share of all elements that both moved

    @property
    def verdict(self) -> str:
        """What it means for a merge, in a few words."""
        if self.cosine is None or self.sign_agreement is None:
            return "they changed different weights; no interference"
        if self.cosine > 0.3:
            return "they pull the same way: a plain sum counts the common part twice"
        if self.cosine < -0.1:
            return "they work against each other: expect one side to lose skill"
        if self.sign_agreement < 0.45:
            return "more sign conflicts than chance"
        return "nearly independent; little interference"


@dataclass(frozen=True)
class Movement:
    """`names`: the fine-tunes; `whole`: |task vector| / |base| over all weights; `changed`: the share of elements that
    each changed; `skipped`: tensors that cannot be compared."""

    names: tuple[str, ...]
    whole: tuple[float, ...]
    changed: tuple[float, ...]
    cells: tuple[Cell, ...]
    pairs: tuple[Pair, ...]
    skipped: tuple[str, ...]


@dataclass
class _Sums:
    """What is added up over the elements of a tensor, in float64."""

    base: float
    squares: list[float]
    dots: list[float]
    same: list[int]
    both: list[int]
    changed: list[int]
    count: int

    @classmethod
    def zero(cls, models: int) -> _Sums:
        pairs = models * (models - 1) // 2
        return cls(0.0, [0.0] * models, [0.0] * pairs, [0] * pairs, [0] * pairs, [0] * models, 0)

    def add(self, other: _Sums) -> None:
        self.base += other.base
        self.count += other.count
        self.squares, self.dots = _added(self.squares, other.squares), _added(self.dots, other.dots)
        self.same, self.both = _added(self.same, other.same), _added(self.both, other.both)
        self.changed = _added(self.changed, other.changed)


def _added(a: list[Number], b: list[Number]) -> list[Number]:
    return [x + y for x, y in zip(a, b, strict=True)]


def measure_movement(
    base: Model,
    others: Sequence[Model],
    *,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Movement:
    """Reads every weight once, in blocks. The numbers do not depend on `threads`. Raises CheckpointError."""
    infos = base.checkpoint.tensors
    names, skipped = [], []
    for name, info in infos.items():
        fits = all(
            _twin(other, name) and other.checkpoint.tensors[_twin(other, name)].shape == info.shape for other in others
        )
        (names if fits and info.is_float else skipped).append(name)
    total, done, sums = sum(infos[name].numel for name in names), 0, {}

    def work(name: str, stop: Stop) -> tuple[str, _Sums]:
        return name, _sum_tensor(base, others, name, stop)

    def tick() -> None:
        if on_progress:
            on_progress(done, total)

    for name, tensor_sums in on_threads(work, names, threads or torch.get_num_threads(), tick=tick):
        sums[name] = tensor_sums
        done += infos[name].numel
    return _summary(others, {name: sums[name] for name in names}, tuple(skipped))


def _sum_tensor(base: Model, others: Sequence[Model], name: str, stop: Stop) -> _Sums:
    tensor_sums, numel = _Sums.zero(len(others)), base.checkpoint.tensors[name].numel
    buffers = [torch.empty(min(_BLOCK, numel)) for _ in range(len(others) + 1)]
    for start in range(0, numel, _BLOCK):
        if stop.is_set():
            break
        end = min(start + _BLOCK, numel)
        blocks = [buffer[: end - start] for buffer in buffers]
        base.checkpoint.read(name, start, end, blocks[0].numpy())
        tensor_sums.base += float(blocks[0].double().square().sum())
        tensor_sums.count += end - start
        for i, other in enumerate(others, start=1):
            other.checkpoint.read(_twin(other, name), start, end, blocks[i].numpy())
            blocks[i] -= blocks[0]
            tensor_sums.squares[i - 1] += float(blocks[i].double().square().sum())
            tensor_sums.changed[i - 1] += int(torch.count_nonzero(blocks[i]))
        for i, (a, b) in enumerate(combinations(blocks[1:], 2)):
            product = a * b
            tensor_sums.dots[i] += float(product.sum(dtype=torch.float64))
            tensor_sums.same[i] += int((product > 0).sum())
            tensor_sums.both[i] += int(((a != 0) & (b != 0)).sum())
    return tensor_sums


def _twin(model: Model, name: str) -> str:
    """The tensor of this name, or what it is tied to; empty where there is none."""
    tensors = model.checkpoint.tensors
    if name in tensors:
        return name
    return (embedding_name(tensors) or "") if name == output_name([name]) else ""


def _summary(others: Sequence[Model], sums: dict[str, _Sums], skipped: tuple[str, ...]) -> Movement:
    whole = _Sums.zero(len(others))
    cells: dict[tuple[int | None, str], _Sums] = {}
    for name, tensor_sums in sums.items():
        whole.add(tensor_sums)
        match = LAYER.match(name)
        module = match[3].removeprefix(".") if match else name
        for ending in (".weight", ".bias"):
            module = module.removesuffix(ending)
        key = (int(match[2]) if match else None, module)
        cells.setdefault(key, _Sums.zero(len(others))).add(tensor_sums)
    pairs = []
    for i, (a, b) in enumerate(combinations(range(len(others)), 2)):
        lengths = math.sqrt(whole.squares[a] * whole.squares[b])
        pairs.append(
            Pair(
                others[a].reference,
                others[b].reference,
                whole.dots[i] / lengths if lengths else None,
                whole.same[i] / whole.both[i] if whole.both[i] else None,
                whole.both[i] / whole.count if whole.count else 0.0,
            )
        )
    return Movement(
        tuple(other.reference for other in others),
        _moved(whole),
        tuple(changed / whole.count if whole.count else 0.0 for changed in whole.changed),
        tuple(Cell(layer, module, _moved(tensor_sums)) for (layer, module), tensor_sums in cells.items()),
        tuple(pairs),
        skipped,
    )


def _moved(sums: _Sums) -> tuple[float, ...]:
    """|task vector| / |base|; 0 where neither is there."""
    return tuple(
        math.sqrt(squares / sums.base) if sums.base else (math.inf if squares else 0.0) for squares in sums.squares
    )
