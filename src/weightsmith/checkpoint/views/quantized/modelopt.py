"""NVIDIA's Model Optimizer (https://github.com/NVIDIA/Model-Optimizer): FP8 weights with one scale, and NVFP4, two
4-bit floats in a byte with an FP8 scale for each 16 of them, times `weight_scale_2`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.checkpoint import Checkpoint
from weightsmith.checkpoint.dtypes import FLOAT8
from weightsmith.checkpoint.views.quantized.decoded import QuantizedWeights
from weightsmith.checkpoint.views.quantized.fp8 import two_in_a_byte
from weightsmith.checkpoint.views.quantized.packing.code_values import FP4, values_of
from weightsmith.checkpoint.views.quantized.packing.packed_rows import PackedRows
from weightsmith.checkpoint.views.quantized.packing.scale_grid import scale_grid
from weightsmith.errors import CheckpointError

_KNOWN = ("FP8", "NVFP4")


def find_modelopt(source: Checkpoint, settings: Mapping[str, Any], path: Path) -> QuantizedWeights:
    """The FP8 and NVFP4 weights of a checkpoint. Raises CheckpointError for another algorithm."""
    algorithm = settings.get("quant_algo")
    if algorithm not in _KNOWN:
        raise CheckpointError(
            f"{path}: quantized by NVIDIA's Model Optimizer with {algorithm}, which is not decoded; known: "
            f"{', '.join(_KNOWN)}. Take the model it was made from",
            path=path,
        )
    weights, tensors = QuantizedWeights(f"Model Optimizer {algorithm}"), source.tensors
    for name, info in list(tensors.items()):
        scales = f"{name}_scale"
        if scales not in tensors or info.dtype not in (*FLOAT8, "U8"):
            continue
        packed = info.dtype == "U8"
        shape = two_in_a_byte(info.shape) if packed else info.shape
        grid = scale_grid(source, path, name, shape, scales, None)
        whole = f"{name}_scale_2"
        if packed:
            if whole not in tensors or tensors[scales].dtype not in FLOAT8:
                raise CheckpointError(
                    f"{path}: {name!r} has no FP8 scales and {whole!r}, which NVFP4 needs; download it again", path=path
                )
            grid = replace(grid, times=whole)
        bits, values = (4, FP4) if packed else (8, values_of(info.dtype))
        weights.add(name, PackedRows(source, shape, name, bits, values, grid), name, scales)
        if whole in tensors:
            weights.parts.add(whole)
    return weights
