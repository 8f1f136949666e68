"""What a merge method is: typed parameters, statistics of whole tensors, and maths on blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

from weightsmith.blocks.block import Block, Scan
from weightsmith.methods.tensor_settings import Settings
from weightsmith.methods.whole_model import Pass

REQUIRED = object()
_NEARLY_ZERO = 1e-8  # methods do not divide by a smaller sum
_AMPLIFICATION = 10  # by which the sum of weights may multiply noise without a warning


@dataclass(frozen=True)
class Parameter:
    """One recipe key. `shared`: one value per output tensor; `input`: one per model; `non_base`: not for the base."""

    name: str
    type: type[float] | type[int] | type[bool] | type[str]
    scope: Literal["shared", "input", "non_base"]
    doc: str
    default: Any = REQUIRED
    above: float | None = None  # exclusive lower bound
    at_least: float | None = None  # inclusive lower bound
    at_most: float | None = None
    choices: tuple[str, ...] = ()  # of a parameter that is a word
    of_whole_model: bool = False  # one value for all tensors: no gradient, no filter
    words: tuple[str, ...] = ()  # that a number may be instead, alone: not in a gradient


@dataclass
class Statistics:
    """What `combine` needs to know of whole tensors. `trim_ties` counts elements kept beyond k by a tied magnitude."""

    values: dict[Any, Any] = field(default_factory=dict)
    trim_ties: int = 0


def cancellation_warning(weights: Sequence[float]) -> str | None:
    """A warning where weights that a method divides by their sum nearly cancel: the division multiplies noise."""
    total, size = abs(math.fsum(weights)), math.fsum(map(abs, weights))
    if not _NEARLY_ZERO <= total < size / _AMPLIFICATION:
        return None
    listed = ", ".join(f"{weight:g}" for weight in weights)
    return (
        f"the weights {listed} nearly cancel: `normalize` divides by their sum of {total:.3g}, which multiplies "
        f"rounding and every difference between the models by {size / total:.0f}; set normalize: false, or other "
        "weights"
    )


class Method:
    """Subclass, set the class variables, write `combine`, and `statistics` if whole tensors matter.

    `combine` is the maths as one reads it, in torch, and runs on any device. Where a method has a faster form, `fused`
    is that, compared with `combine` by tests; the engine runs it on the processor, and then does not import torch."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    parameters: ClassVar[tuple[Parameter, ...]]
    needs_base: ClassVar[bool] = False
    inputs: ClassVar[tuple[int, int | None]] = (1, None)  # fewest and most models, the base among them
    row_wise: ClassVar[bool] = False  # blocks hold whole rows
    cost: ClassVar[str] = "each input is read once, block by block"  # in words
    advice: ClassVar[str] = ""  # one line: when to take it
    of_matrices: ClassVar[bool] = False  # holds whole matrices, one of each input and two more
    random: ClassVar[bool] = False  # draws random numbers, from `Scan.streams`
    flattens: ClassVar[bool] = False  # makes singular values alike, those of directions that are not used too
    reads_text: ClassVar[Literal["", "gram", "gram of merged inputs", "fisher"]] = ""  # what it has collected

    def objection(self, settings: Settings) -> str | None:
        """What is wrong with parameters that are right one by one; None: nothing."""
        return None

    def warning(self, settings: Settings) -> str | None:
        """What is allowed and rarely meant; None: nothing."""
        return None

    def passes(self, settings: Settings) -> tuple[Pass, ...]:
        """Over the whole model, before the first tensor is merged. `settings`: of any tensor, for parameters that are
        `of_whole_model`."""
        return ()

    def statistics(self, scan: Scan, settings: Settings) -> Statistics:
        """What `combine` needs to know of whole tensors, gathered before the first block is combined."""
        return Statistics()

    def combine(self, block: Block, settings: Settings, statistics: Statistics) -> torch.Tensor:
        """The result for one block, float32 [n], from `block.inputs`."""
        raise NotImplementedError

    def fused(self, block: Block, settings: Settings, statistics: Statistics) -> np.ndarray:
        """The same numbers as `combine`, in `block.out`."""
        block.out[:] = self.combine(block, settings, statistics).cpu().numpy()
        return block.out

    def compile_ahead(self) -> None:
        """Compile what the kernels of `fused` call late, so that another process can have it ready by then."""

    @property
    def paper_address(self) -> str | None:
        """`paper`, where that is an address."""
        return self.paper if self.paper.startswith("https://") else None

    @property
    def input_count(self) -> str:
        """How many models it takes, the base among them, in words: `2`, `3 or more`, `2 to 3`."""
        fewest, most = self.inputs
        return f"{fewest}" if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}"

    @property
    def identity(self) -> str:
        """What the method does, where that is not this version's: a run does not resume with another one."""
        return ""

    @property
    def needs_torch(self) -> bool:
        """Whether its fastest form is in torch."""
        return type(self).fused is Method.fused
