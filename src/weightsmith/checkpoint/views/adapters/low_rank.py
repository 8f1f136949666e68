"""Plain LoRA, weight by weight: what both peft's and llama.cpp's format have in common.

`scale` is alpha / r, or alpha / sqrt(r) with rsLoRA (arXiv 2312.03732).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from weightsmith.checkpoint.checkpoint import read_tensor
from weightsmith.checkpoint.views.adapters.adapter_files import open_gguf_adapter
from weightsmith.checkpoint.views.adapters.changes import AddLowRank
from weightsmith.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_LORA_GGUF = re.compile(r"^(?P<weight>.+)\.lora_(?P<side>a|b)$")


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to one weight: scale * B @ A. float32, A [rank, in], B [out, rank]."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float

    def check_fits(self, adapter: Path, name: str, shape: tuple[int, ...]) -> None:
        """Raises CheckpointError where the base's weight `name` has another `shape`."""
        if (self.b.shape[0], self.a.shape[1]) != shape or self.a.shape[0] != self.b.shape[1]:
            raise CheckpointError(
                f"{adapter}: {name!r} is B {list(self.b.shape)} @ A {list(self.a.shape)}, the base's weight is "
                f"{list(shape)}; it was made for another model",
                path=adapter,
            )

    @property
    def transposed(self) -> LowRank:
        """For a weight that is stored the other way round."""
        return LowRank(self.b.T.contiguous(), self.a.T.contiguous(), self.scale)

    def change(self) -> AddLowRank:
        return AddLowRank(self.b * self.scale, self.a)


def read_gguf_adapter(adapter: Path) -> dict[str, LowRank]:
    """An adapter as llama.cpp reads it (src/llama-adapter.cpp): scale is adapter.lora.alpha / rank, 1 where alpha is 0.
    Raises CheckpointError."""
    import torch

    file = open_gguf_adapter(adapter)
    alpha = file.metadata.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        raise CheckpointError(f"{adapter}: adapter.lora.alpha is {alpha!r}", path=adapter)
    sides: dict[str, dict[str, torch.Tensor]] = {}
    for key in file.tensors:
        match = _LORA_GGUF.match(key)
        if not match or match["weight"].startswith("token_embd."):
            raise CheckpointError(
                f"{adapter}: tensor {key!r} is not a LoRA matrix of a linear layer; only those are read", path=adapter
            )
        sides.setdefault(match["weight"], {})[match["side"]] = read_tensor(file, key, torch.float32)
    low_rank = {}
    for name, pair in sides.items():
        if set(pair) != {"a", "b"} or any(side.ndim != 2 for side in pair.values()):
            raise CheckpointError(f"{adapter}: {name!r} has only half of its LoRA pair", path=adapter)
        low_rank[name] = LowRank(pair["a"], pair["b"], alpha / max(1, pair["b"].shape[1]) if alpha else 1.0)
    return low_rank
