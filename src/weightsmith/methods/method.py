"""What a merge method is: typed parameters, statistics of whole tensors, and maths on float32 blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


class Scan(Protocol):
    """All inputs of one output tensor; every call of `blocks` passes over them again, in the same order."""

    numel: int

    def blocks(self) -> Iterator[list[torch.Tensor]]:
        """1-d float32 blocks, one per input, aligned. Not to be modified."""
        ...


class Method:
    """Subclass, set the class variables, write `combine`, and `statistics` if whole tensors matter."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    parameters: ClassVar[tuple[Parameter, ...]]
    needs_base: ClassVar[bool] = False
    inputs: ClassVar[tuple[int, int | None]] = (1, None)  # fewest and most models, the base among them

    def statistics(self, scan: Scan, settings: Settings) -> Statistics:
        return Statistics()

    def combine(self, blocks: Sequence[torch.Tensor], settings: Settings, statistics: Statistics) -> torch.Tensor:
        """Equal-length 1-d float32 blocks, one per input, to one block of the same length. Inputs stay unmodified."""
        raise NotImplementedError
