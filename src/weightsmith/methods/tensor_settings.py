"""What a method is told of one output tensor: its parameters, its inputs, its place in the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch

Role = Literal["matrix", "embedding", "vector"]


@dataclass(frozen=True)
class MatrixLayout:
    """The matrices in a fused weight: its rows are `repeats` times `sizes`, a part each. `transposed`: it is stored
    [inputs, outputs].

    >>> [list(rows) for rows in MatrixLayout(2, (1, 2)).rows_of_parts()]
    [[0, 3], [1, 2, 4, 5]]
    """

    repeats: int
    sizes: tuple[int, ...]
    transposed: bool = False

    def rows_of_parts(self) -> list[range | list[int]]:
        """The row numbers of each part, once the weight is [outputs, inputs]."""
        period, begin, parts = sum(self.sizes), 0, []
        for size in self.sizes:
            if self.repeats == 1:
                parts.append(range(begin, begin + size))
            else:
                starts = range(begin, self.repeats * period, period)
                parts.append([row for start in starts for row in range(start, start + size)])
            begin += size
        return parts


class TextStatistics(Protocol):
    """What was collected from text for the inputs of one output tensor; None where there is nothing of the kind."""

    def gram(self, number: int) -> torch.Tensor | None:
        """float32 [width, width]: the mean of x x^T over the tokens, where x is what the weight matrix of input
        `number` is multiplied with."""
        ...

    def fisher(self, number: int, start: int, stop: int) -> torch.Tensor | None:
        """float32 [stop - start]: the diagonal of the Fisher information of these elements of input `number`."""
        ...

    def mean_fisher(self, number: int) -> float:
        """The mean of all of it; 0 where there is none."""
        ...


@dataclass(frozen=True)
class Settings:
    """Final parameter values for one output tensor; `per_input` runs parallel to the inputs. `role`: whether it is the
    weight of a linear layer, an embedding or head, or anything else; `matrix`: the matrices in it, if not one;
    `models`: the references of the inputs; `depth`: of the layer, 0 for the first one and outside the layers, 1 for the
    last one; `scale`: what LiNeS multiplies the merged task vector with; `whole_model`: what the passes over the whole
    model found; `text`: what was collected from text, where the method reads one."""

    shared: dict[str, Any]
    per_input: tuple[dict[str, Any], ...]
    base: int | None  # which input is the base model
    role: Role = "vector"
    matrix: MatrixLayout | None = None
    models: tuple[str, ...] = ()
    depth: float = 0.0
    scale: float = 1.0
    whole_model: Mapping[str, Any] = field(default_factory=dict)
    text: TextStatistics | None = None

    @property
    def base_index(self) -> int:
        """`base` where the method needs one; the plan has seen to it."""
        assert self.base is not None
        return self.base

    @property
    def others(self) -> list[int]:
        return [i for i in range(len(self.per_input)) if i != self.base]
