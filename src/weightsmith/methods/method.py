"""What a merge method is: typed parameters, statistics of whole tensors, and maths on float32 blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from weightsmith.checkpoint.conversion import BF16, F16, F32, load

if TYPE_CHECKING:
    import torch

    from weightsmith.methods.magnitude_threshold import Threshold

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
    """One stretch of all inputs: elements `start` onwards, whole rows where the method is row-wise.

    `rows`: uint8 [models, room], each row the bytes of one input as it is stored; `kinds`: int64 [models], what those bytes are
    (`checkpoint.conversion`); `out`: float32 [n], for the result. Kernels take these; `inputs` is for everyone else."""

    start: int
    rows: np.ndarray
    kinds: np.ndarray
    out: np.ndarray
    device: str = "cpu"

    @classmethod
    def of(cls, start: int, values: np.ndarray) -> Block:
        """From float32 [models, n]."""
        return cls(start, values.view(np.uint8), np.full(len(values), F32), np.empty(values.shape[1], np.float32))

    def floats(self) -> np.ndarray:
        """float32 [models, n], a copy."""
        found = np.empty((len(self.rows), len(self.out)), np.float32)
        for row, kind, values in zip(self.rows, self.kinds, found, strict=True):
            load(kind, row, 0, values)
        return found

    @property
    def inputs(self) -> torch.Tensor:
        """float32 [models, n], a copy on `device`, to be overwritten as one likes. Bytes go there before they are converted."""
        import torch

        dtypes = {F32: torch.float32, F16: torch.float16, BF16: torch.bfloat16}
        count, found = len(self.out), []
        for row, kind in zip(self.rows, self.kinds.tolist(), strict=True):
            dtype = dtypes[kind]
            stored = torch.from_numpy(row[: count * dtype.itemsize])
            if self.device != "cpu":
                stored = stored.pin_memory() if self.device.startswith("cuda") else stored
                stored = stored.to(self.device, non_blocking=True)
            found.append(stored.view(dtype).to(torch.float32))
        return torch.stack(found)


class Scan(Protocol):
    """All inputs of one output tensor; every call of `blocks` passes over them again, in the same order."""

    numel: int
    width: int  # elements in one row: the length of the last dimension
    streams: tuple[int, ...]  # for each input the key of its random numbers, 64 bits

    def blocks(self) -> Iterator[Block]:
        """All of it; the buffers are used again for the next block."""
        ...

    def known_bound(self, base: int, number: int, k: int) -> Threshold | None:
        """The bound of the k largest magnitudes of input `number` minus input `base`, where it was found before."""
        ...

    def sample(self, count: int) -> np.ndarray:
        """About `count` elements from all over the tensor, float32 [models, n]; all of them where there are no more."""
        ...


class Method:
    """Subclass, set the class variables, write `combine`, and `statistics` if whole tensors matter.

    `combine` is the maths as one reads it, in torch, and runs on any device. Where a method has a faster form, `fused` is that,
    held against `combine` by tests; the engine runs it on the processor, and then does not import torch."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    parameters: ClassVar[tuple[Parameter, ...]]
    needs_base: ClassVar[bool] = False
    inputs: ClassVar[tuple[int, int | None]] = (1, None)  # fewest and most models, the base among them
    row_wise: ClassVar[bool] = False  # blocks hold whole rows
    random: ClassVar[bool] = False  # draws random numbers, from `Scan.streams`

    def objection(self, settings: Settings) -> str | None:
        """What is wrong with parameters that are right one by one; None: nothing."""
        return None

    def statistics(self, scan: Scan, settings: Settings) -> Statistics:
        """What is to be known of whole tensors before the first block is combined."""
        return Statistics()

    def combine(self, block: Block, settings: Settings, statistics: Statistics) -> torch.Tensor:
        """The result for one block, float32 [n], from `block.inputs`."""
        raise NotImplementedError

    def fused(self, block: Block, settings: Settings, statistics: Statistics) -> np.ndarray:
        """The same numbers as `combine`, in `block.out`."""
        block.out[:] = self.combine(block, settings, statistics).cpu().numpy()
        return block.out

    @property
    def needs_torch(self) -> bool:
        """Whether its fastest form is in torch."""
        return type(self).fused is Method.fused
