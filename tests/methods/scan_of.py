"""Whole tensors as a scan, and settings of a method in one line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from weightsmith.blocks.block import Block
from weightsmith.blocks.random_stream import stream_key
from weightsmith.methods.registry import METHODS
from weightsmith.methods.tensor_settings import Settings


class WholeTensors:
    """float32 [models, elements] with rows of `width`, in blocks of `step` elements."""

    def __init__(self, tensors: torch.Tensor, width: int, step: int) -> None:
        self.tensors, self.width, self.step = tensors, width, step
        self.numel, self.begin = tensors.shape[1], 0
        self.shape = (self.numel // width, width)
        self.streams = tuple(stream_key(0, i, "w") for i in range(len(tensors)))

    def blocks(self) -> Iterator[Block]:
        for start in range(0, self.numel, self.step):
            yield Block.of(start, self.tensors[:, start : start + self.step].contiguous().numpy())

    def known_bound(self, base: int, number: int, k: int) -> None:
        return None

    def low_rank(self, number: int) -> None:
        return None

    def sample(self, count: int) -> np.ndarray:
        return self.tensors[:, :: max(1, self.numel // count)][:, :count].clone().numpy()


def run(name: str, scan: WholeTensors, settings: Settings, form: str) -> torch.Tensor:
    """What the method makes of whole tensors, in its form `combine` or `fused`."""
    method = METHODS[name]
    statistics = method.statistics(scan, settings)
    return torch.cat([torch.as_tensor(getattr(method, form)(block, settings, statistics)) for block in scan.blocks()])


def settings_of(name: str, base: int | None, per_input: list[dict[str, Any]], **shared: Any) -> Settings:
    """Defaults of the method filled in; the base has no parameters of its own where they are not for it."""
    method = METHODS[name]
    filled = []
    for i, values in enumerate(per_input):
        own = {
            p.name: p.default for p in method.parameters if p.scope == "input" or (p.scope == "non_base" and i != base)
        }
        filled.append(own | values)
    defaults = {p.name: p.default for p in method.parameters if p.scope == "shared"}
    return Settings(defaults | shared, tuple(filled), base)


def merged(
    name: str, tensors: list[list[list[float]]], per_input: list[dict[str, Any]], base: int | None = 0, **shared: Any
) -> list[list[float]]:
    """Matrices in, the merged matrix out; both forms of the method, which must agree."""
    whole = torch.tensor(tensors)
    rows, width = whole.shape[1:]
    settings = settings_of(name, base, per_input, **shared)
    scan = WholeTensors(whole.reshape(len(tensors), -1), width, rows * width)
    plain, fused = (run(name, scan, settings, form).reshape(rows, width) for form in ("combine", "fused"))
    torch.testing.assert_close(plain, fused, rtol=1e-6, atol=1e-7)
    return [[round(value, 5) for value in row] for row in plain.tolist()]
