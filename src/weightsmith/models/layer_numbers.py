"""Layers are found by the first number in a name; none may be missing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from weightsmith.errors import CheckpointError

LAYER = re.compile(r"^(\D*?\.)(\d+)(\..+)$")


def check_layers(path: Path, names: Iterable[str], config: dict[str, Any]) -> None:
    """Raises CheckpointError where a layer is missing, or config.json tells another number."""
    numbers: dict[str, set[int]] = {}
    for name in names:
        if match := LAYER.match(name):
            numbers.setdefault(match[1], set()).add(int(match[2]))
    for prefix, layers in numbers.items():
        first = min(
            0 if config.get("num_hidden_layers") else 1, min(layers)
        )  # a family nobody described may count from one
        missing = sorted(set(range(first, max(layers) + 1)) - layers)
        if missing:
            raise CheckpointError(
                f"{path}: layer {missing[0]} is missing ({prefix}{missing[0]}.*), while layer {max(layers)} is there; "
                "download the model again",
                path=path,
            )
    expected = config.get("num_hidden_layers")
    if len(numbers) == 1 and isinstance(expected, int):
        prefix, layers = next(iter(numbers.items()))
        if len(layers) != expected:
            raise CheckpointError(
                f"{path}: config.json says {expected} layers, the weights have {len(layers)} ({prefix}*); one of them "
                "belongs to another model; download both again",
                path=path,
            )


def count_layers(names: Iterable[str]) -> int:
    """One more than the highest layer number."""
    return 1 + max((int(match[2]) for name in names if (match := LAYER.match(name))), default=-1)
