"""What a merge method is: typed parameters, statistics of whole tensors, and maths on float32 blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch

REQUIRED = object()


@dataclass(frozen=True)
class Parameter:
    """One recipe key. `shared`: one value per output tensor; `input`: one per model; `non_base`: not for the base."""

    name: str
    kind: type[float] | type[bool]
    scope: Literal["shared", "input", "non_base"]
    doc: str
    default: Any = REQUIRED
    above: float | None = None  # exclusive lower bound
    at_most: float | None = None


@dataclass(frozen=True)
class Settings:
    """Final parameter values for one output tensor; `per_input` runs parallel to the inputs."""

    shared: dict[str, Any]
    per_input: tuple[dict[str, Any], ...]
    base: int | None  # which input is the base model

    @property
    def base_index(self) -> int:
        """`base` where the method needs one; the plan has seen to it."""
        assert self.base is not None
        return self.base

    @property
    def others(self) -> list[int]:
        return [i for i in range(len(self.per_input)) if i != self.base]


@dataclass
class Statistics:
    """What `combine` needs to know of whole tensors. `trim_ties` counts elements kept beyond k by a tied magnitude."""

    values: dict[Any, Any] = field(default_factory=dict)
    trim_ties: int = 0


@dataclass
class Block:
    """One stretch of all inputs: elements `start` onwards, whole rows where the method is row-wise. `inputs`: float32
    [models, n], to be read and overwritten as one likes; `out`: float32 [n], for the result."""

    start: int
    inputs: torch.Tensor
    out: torch.Tensor


class Scan(Protocol):
    """All inputs of one output tensor; every call of `blocks` passes over them again, in the same order."""

    numel: int
    width: int  # elements in one row: the length of the last dimension
    streams: tuple[int, ...]  # for each input the key of its random numbers, 64 bits

    def blocks(self) -> Iterator[Block]:
        """All of it; the buffers are used again for the next block."""
        ...

    def sample(self, count: int) -> torch.Tensor:
        """About `count` elements from all over the tensor, float32 [models, n]; all of them where there are no more."""
        ...


class Method:
    """Subclass, set the class variables, write `combine`, and `statistics` if whole tensors matter.

    `combine` is the maths as one reads it. Where a method has a faster form, `fused` is that, held against `combine` by tests,
    and the engine runs it."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    parameters: ClassVar[tuple[Parameter, ...]]
    needs_base: ClassVar[bool] = False
    inputs: ClassVar[tuple[int, int | None]] = (1, None)  # fewest and most models, the base among them
    row_wise: ClassVar[bool] = False  # blocks hold whole rows

    def objection(self, settings: Settings) -> str | None:
        """What is wrong with parameters that are right one by one; None: nothing."""
        return None

    def statistics(self, scan: Scan, settings: Settings) -> Statistics:
        """What is to be known of whole tensors before the first block is combined."""
        return Statistics()

    def combine(self, block: Block, settings: Settings, statistics: Statistics) -> torch.Tensor:
        """The result for one block, float32 [n]; it may be `block.out`, or any of the inputs overwritten."""
        raise NotImplementedError

    def fused(self, block: Block, settings: Settings, statistics: Statistics) -> torch.Tensor:
        """The same numbers as `combine`, faster."""
        return self.combine(block, settings, statistics)
