"""What a model computes in, in words."""

from __future__ import annotations


def precision_on(precision: str, device: str) -> str:
    """`bfloat16` on the processor, `bfloat16 on cuda` on a device of that type: their answers are kept apart."""
    kind = device.partition(":")[0]
    return precision if kind == "cpu" else f"{precision} on {kind}"
