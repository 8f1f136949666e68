"""compressed-tensors (https://github.com/vllm-project/compressed-tensors), as llm-compressor writes it: integers packed
into 32-bit words or one in a byte, 8-bit floats, and 4-bit floats (NVFP4, MXFP4), by the tensors that each weight has.

A group's zero point is packed as its codes are; of NVFP4 the group's scale is weight_scale / weight_global_scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.checkpoint.checkpoint import Checkpoint
from weightsmith.checkpoint.dtypes import FLOAT8
from weightsmith.checkpoint.views.quantized.decoded import QuantizedWeights
from weightsmith.checkpoint.views.quantized.fp8 import block_size, two_in_a_byte
from weightsmith.checkpoint.views.quantized.packing.code_values import FP4, unsigned, values_of
from weightsmith.checkpoint.views.quantized.packing.packed_rows import PackedRows, PackedZeros
from weightsmith.checkpoint.views.quantized.packing.scale_grid import scale_grid
from weightsmith.errors import CheckpointError

_FORMATS = (
    "dense",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "pack-quantized",
    "mixed-precision",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "mxfp8-quantized",
)


def find_compressed_tensors(source: Checkpoint, settings: Mapping[str, Any], path: Path) -> QuantizedWeights:
    """The quantized weights of a compressed-tensors checkpoint. Raises CheckpointError for a format that is not
    decoded, and for parts that do not fit together."""
    groups = [group for group in (settings.get("config_groups") or {}).values() if isinstance(group, Mapping)]
    formats = [settings.get("format"), *(group.get("format") for group in groups)]
    sparsity = (settings.get("sparsity_config") or {}).get("format", "dense")
    for stored_as in (*formats, sparsity):
        if stored_as is not None and stored_as not in _FORMATS:
            raise CheckpointError(
                f"{path}: compressed-tensors in the format {stored_as!r}, which is not decoded; known: "
                f"{', '.join(_FORMATS)}. Take the model it was made from, or decompress it with llm-compressor",
                path=path,
            )
    arguments = [group["weights"] for group in groups if isinstance(group.get("weights"), Mapping)]
    tiles = {block_size(args.get("block_structure"), path) for args in arguments} - {None}
    tile = tiles.pop() if len(tiles) == 1 else None
    bits = {args["num_bits"] for args in arguments if args.get("num_bits") in (2, 4, 8)}
    weights, tensors, titles = QuantizedWeights("compressed-tensors"), source.tensors, set()
    for name, info in list(tensors.items()):
        if name.endswith("weight_packed"):
            weight = name.removesuffix("_packed")
            four_bit_floats = info.dtype == "U8"
            if four_bit_floats:
                decoder = _packed_floats(source, path, weight, name)
            else:
                decoder = _packed_integers(source, path, weight, name, bits)
            titles.add("FP4" if four_bit_floats else f"int{decoder.bits}")
        elif (info.dtype in FLOAT8 or info.dtype == "I8") and f"{name}_scale" in tensors:
            weight = name
            grid = scale_grid(source, path, name, info.shape, f"{name}_scale", tile)
            zeros = None
            if (zero_points := f"{name}_zero_point") in tensors:
                if tensors[zero_points].shape != tensors[f"{name}_scale"].shape:
                    raise CheckpointError(f"{path}: {zero_points!r} has not the shape of the scales", path=path)
                zeros = replace(grid, name=zero_points, exponents=False)
            decoder = PackedRows(source, info.shape, name, 8, values_of(info.dtype), grid, zeros)
            titles.add("FP8" if info.dtype in FLOAT8 else "int8")
        else:
            continue
        weights.add(weight, decoder, name, *(part for part in _parts(weight) if part in tensors))
    for name in tensors:  # scales of weights that were never compressed
        weight = name.removesuffix("_scale").removesuffix("_zero_point").removesuffix("_g_idx")
        if weight != name and weight in tensors and weight not in weights.decoders and tensors[weight].is_float:
            weights.unused.add(name)
    weights.title = f"compressed-tensors {' and '.join(sorted(titles))}".strip()
    return weights


def _parts(weight: str) -> list[str]:
    endings = ("scale", "zero_point", "shape", "g_idx", "global_scale")
    return [f"{weight}_{ending}" for ending in endings]


def _packed_floats(source: Checkpoint, path: Path, weight: str, packed: str) -> PackedRows:
    info = source.tensors[packed]
    shape = two_in_a_byte(info.shape)
    grid = scale_grid(source, path, weight, shape, _required(source, path, weight, "scale"), None)
    if (whole := f"{weight}_global_scale") in source.tensors:
        _check_whole(source, path, whole, shape)
        grid = replace(grid, divided_by=whole)
    return PackedRows(source, shape, packed, 4, FP4, grid)


def _check_whole(source: Checkpoint, path: Path, name: str, shape: tuple[int, ...]) -> None:
    if source.tensors[name].numel not in (1, math.prod(shape[:-2])) or not source.tensors[name].is_float:
        raise CheckpointError(f"{path}: {name!r} is {list(source.tensors[name].shape)}, not one number", path=path)


def _packed_integers(source: Checkpoint, path: Path, weight: str, packed: str, known_bits: set[int]) -> PackedRows:
    info = source.tensors[packed]
    shape = _declared_shape(source, path, weight, info.shape, known_bits)
    widths = [bits for bits in (2, 4, 8) if -(-shape[-1] * bits // 32) == info.shape[-1]]
    if len(widths) != 1 or info.dtype != "I32" or shape[:-1] != info.shape[:-1]:
        raise CheckpointError(
            f"{path}: {packed!r} is {info.dtype} {list(info.shape)} for a weight of {list(shape)}: no packing of "
            "2, 4 or "
            "8 bits, which are the ones that are decoded; take the model it was made from",
            path=path,
        )
    bits = widths[0]
    grid = scale_grid(source, path, weight, shape, _required(source, path, weight, "scale"), None)
    middle = 1 << (bits - 1)
    values, zeros, group_of = unsigned(bits) - np.float32(middle), None, None
    if (name := f"{weight}_zero_point") in source.tensors:
        rows = -(-grid.rows * bits // 32)
        if source.tensors[name].dtype != "I32" or source.tensors[name].shape[-2:] != (rows, grid.columns):
            raise CheckpointError(
                f"{path}: {name!r} is {list(source.tensors[name].shape)}, which does not fit the scales", path=path
            )
        zeros = PackedZeros(source, name, grid.rows, grid.columns, bits, middle)
    if (name := f"{weight}_g_idx") in source.tensors and _is_set(source, name):
        group_of = name
    return PackedRows(source, shape, packed, bits, values, grid, zeros, group_of)


def _required(source: Checkpoint, path: Path, weight: str, ending: str) -> str:
    name = f"{weight}_{ending}"
    if name not in source.tensors:
        raise CheckpointError(f"{path}: {weight}_packed is there, {name!r} is not; download it again", path=path)
    return name


def _declared_shape(
    source: Checkpoint, path: Path, weight: str, packed: tuple[int, ...], known_bits: set[int]
) -> tuple[int, ...]:
    """`weight_shape`; where headers alone were fetched, which hold no values, what the words have room for."""
    name = _required(source, path, weight, "shape")
    numbers = np.empty(source.tensors[name].numel, np.int64)
    source.read(name, 0, len(numbers), numbers)
    if not numbers.any() and len(packed) == 2 and len(known_bits) == 1:
        return packed[0], packed[1] * 32 // min(known_bits)
    if len(numbers) == 2 and len(packed) == 2 and numbers[0] == packed[0] and 0 < numbers[1] <= packed[1] * 16:
        return packed[0], int(numbers[1])
    raise CheckpointError(
        f"{path}: {name!r} says {numbers.tolist()} for a packed weight of {list(packed)}; download the whole model",
        path=path,
    )


def _is_set(source: Checkpoint, name: str) -> bool:
    """Whether `g_idx` says anything: it is -1 throughout where columns are in the order of their groups."""
    numbers = np.empty(source.tensors[name].numel, np.int64)
    source.read(name, 0, len(numbers), numbers)
    return bool((numbers >= 0).all())
