"""A block: the same stretch of every input of one output tensor, as it is stored; and the scan that gives one after the
other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from weightsmith.blocks.convert import BF16, F16, F32, load

if TYPE_CHECKING:
    import torch

    from weightsmith.blocks.threshold import Threshold


@dataclass
class Block:
    """One stretch of all inputs: elements `start` onwards, whole rows where the method is row-wise.

    `rows`: uint8 [models, room], each row the bytes of one input as it is stored; `dtype_codes`: int64 [models], what
    those bytes are (`blocks.convert`); `out`: float32 [n], for the result. Kernels take these; `inputs`, `base` and
    `others` are for everyone else. `there`: inputs that are on the device already, whose rows hold nothing."""

    start: int
    rows: np.ndarray
    dtype_codes: np.ndarray
    out: np.ndarray
    device: str = "cpu"
    base_index: int | None = None
    there: Mapping[int, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, start: int, values: np.ndarray) -> Block:
        """A block from float32 [models, n]."""
        return cls(start, values.view(np.uint8), np.full(len(values), F32), np.empty(values.shape[1], np.float32))

    def floats(self) -> np.ndarray:
        """float32 [models, n], a copy."""
        if self.there:
            return self.inputs.cpu().numpy()
        values = np.empty((len(self.rows), len(self.out)), np.float32)
        for row, dtype_code, row_values in zip(self.rows, self.dtype_codes, values, strict=True):
            load(dtype_code, row, 0, row_values)
        return values

    def sample(self, starts: np.ndarray, length: int) -> np.ndarray:
        """float32 [models, starts x length]: the elements from each of `starts` on, picked on `device`."""
        import torch

        places = torch.from_numpy((starts[:, None] + np.arange(length)).reshape(-1)).to(self.device)
        return torch.stack([stored[places].to(torch.float32) for stored in self.stored]).cpu().numpy()

    @property
    def inputs(self) -> torch.Tensor:
        """float32 [models, n], a copy on `device`, yours to overwrite. Bytes go there before they are
        converted."""
        import torch

        return torch.stack([stored.to(torch.float32) for stored in self.stored])

    @cached_property
    def stored(self) -> list[torch.Tensor]:
        """[n] of each input on `device`, in the dtype that it is stored in. They stay there for the next pass."""
        import torch

        dtypes = {F32: torch.float32, F16: torch.float16, BF16: torch.bfloat16}
        count, values, pinned = len(self.out), [], self.device.startswith("cuda")
        for number, (row, dtype_code) in enumerate(zip(self.rows, self.dtype_codes.tolist(), strict=True)):
            if number in self.there:
                values.append(self.there[number])
                continue
            dtype = dtypes[dtype_code]
            stored = torch.from_numpy(row[: count * dtype.itemsize]).to(self.device, non_blocking=pinned)
            values.append(stored.view(dtype))
        return values

    @cached_property
    def _shared_inputs(self) -> torch.Tensor:
        return self.inputs

    @property
    def base(self) -> torch.Tensor:
        """float32 [n] of the base model, not to be overwritten. Raises ValueError where there is none."""
        if self.base_index is None:
            raise ValueError("the recipe names no base model")
        return self._shared_inputs[self.base_index]

    @property
    def others(self) -> torch.Tensor:
        """float32 [models, n] of all models but the base, in the recipe's order, not to be overwritten."""
        rows = [row for row in range(len(self.rows)) if row != self.base_index]
        return self._shared_inputs[rows]


class Scan(Protocol):
    """All inputs of one output tensor; every call of `blocks` passes over them again, in the same order."""

    numel: int
    begin: int  # the place of its first element in the tensor
    shape: tuple[int, ...]  # of the tensor, or of the one matrix of it that is scanned
    width: int  # elements in one row: the length of the last dimension
    streams: tuple[int, ...]  # for each input the key of its random numbers, 64 bits

    def blocks(self) -> Iterator[Block]:
        """All of it; the buffers are used again for the next block."""
        ...

    def known_bound(self, base: int, number: int, k: int) -> Threshold | None:
        """The bound of the k largest magnitudes of input `number` minus input `base`, where it was found before."""
        ...

    def low_rank(self, number: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """float32 (b [rows, rank], a [rank, width]) where input `number` is the base plus b @ a, as an adapter says;
        None where that is not known."""
        ...

    def sample(self, count: int) -> np.ndarray:
        """About `count` elements from all over the tensor, float32 [models, n]; all of them where there are no more."""
        ...
