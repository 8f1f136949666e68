"""8-bit floats with scales: blocks (DeepSeek, https://arxiv.org/abs/2412.19437; Qwen, MiniMax, Kimi), rows (fbgemm) or
whole tensors; MXFP8 (groups of 32 with exponents); and experts of 4-bit floats, two in a byte (DeepSeek-V4).

weight = code * scale, although the scale's name may be `weight_scale_inv`
(`transformers/integrations/finegrained_fp8.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.checkpoint import Checkpoint
from weightsmith.checkpoint.dtypes import FLOAT8
from weightsmith.checkpoint.views.quantized.decoded import QuantizedWeights
from weightsmith.checkpoint.views.quantized.packing.code_values import FP4, values_of
from weightsmith.checkpoint.views.quantized.packing.packed_rows import PackedRows
from weightsmith.checkpoint.views.quantized.packing.scale_grid import scale_grid
from weightsmith.errors import CheckpointError

_BLOCK = (128, 128)  # transformers' default


def find_fp8(source: Checkpoint, settings: Mapping[str, Any], path: Path) -> QuantizedWeights:
    """The FP8 and FP4 weights of a checkpoint. Raises CheckpointError for one without scales, and scales that do not
    fit."""
    tile = block_size(settings.get("weight_block_size", _BLOCK), path)
    weights, tensors, titles = QuantizedWeights("FP8"), source.tensors, set()
    for name, info in list(tensors.items()):
        four_bit = info.dtype == "I8" and len(info.shape) > 1  # as transformers takes them
        if info.dtype not in FLOAT8 and not four_bit:
            continue
        scales = scales_of(name, tensors)
        if scales is None:
            raise CheckpointError(
                f"{path}: tensor {name!r} is {info.dtype}, and its scales ({name}_scale_inv or {name}_scale) are "
                "not in "
                "the model; download it again",
                path=path,
            )
        shape = two_in_a_byte(info.shape) if four_bit else info.shape
        grid = scale_grid(source, path, name, shape, scales, None if four_bit else tile)
        bits, values = (4, FP4) if four_bit else (8, values_of(info.dtype))
        weights.add(name, PackedRows(source, shape, name, bits, values, grid), name, scales)
        down, across = grid.tile
        in_tiles = f" in blocks of {down} x {across}" if grid.rows > 1 and grid.columns > 1 else ""
        titles.add("FP4" if four_bit else f"FP8{in_tiles}")
    weights.title = " and ".join(sorted(titles, reverse=True)) or "FP8"
    return weights


def block_size(declared: Any, path: Path) -> tuple[int, int] | None:
    """Rows and columns of a block as config.json gives them; None: there are no blocks. Raises CheckpointError."""
    if declared is None:
        return None
    if (
        isinstance(declared, list | tuple)
        and len(declared) == 2
        and all(type(size) is int and size > 0 for size in declared)
    ):
        return declared[0], declared[1]
    raise CheckpointError(f"{path}: the block size of its quantization is {declared!r}, not two numbers", path=path)


def two_in_a_byte(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a weight whose codes lie two in a byte."""
    *outer, width = shape
    return (*outer, 2 * width)


def scales_of(name: str, tensors: Mapping[str, Any]) -> str | None:
    """The scales of a weight, under the names that formats give them."""
    candidates = [f"{name}_scale_inv", f"{name}_scale"]
    if name.endswith(".weight"):
        candidates.append(f"{name.removesuffix('weight')}scale")
    return next((scales for scales in candidates if scales in tensors), None)
