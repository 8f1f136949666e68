"""bitsandbytes as transformers saves it: 4 bit (nf4 and fp4, https://arxiv.org/abs/2305.14314) in blocks of the
flattened weight, the high four bits first; int8 rows (https://arxiv.org/abs/2208.07339) with the largest magnitude of
each row, `SCB`.

With double quantization the block's scale is nested_quant_map[code] * nested_absmax + nested_offset
(`bitsandbytes/functional.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.blocks.dequantize import decode_rows
from weightsmith.checkpoint.checkpoint import Checkpoint
from weightsmith.checkpoint.dtypes import ITEM_SIZES
from weightsmith.checkpoint.views.quantized.decoded import QuantizedWeights
from weightsmith.checkpoint.views.quantized.packing.code_values import values_of
from weightsmith.checkpoint.views.quantized.packing.packed_rows import NO_GROUPS, PackedRows
from weightsmith.checkpoint.views.quantized.packing.scale_grid import ScaleGrid
from weightsmith.errors import CheckpointError
from weightsmith.files.inputs.read_input import parse_json

_STATE = ".quant_state.bitsandbytes__"
_INT8_SCALE = np.float32(1 / 127)


@dataclass(frozen=True)
class FourBitBlocks:
    """A 4-bit weight, in rows of one block; the last block may reach beyond the weight."""

    source: Checkpoint
    shape: tuple[int, ...]
    name: str
    width: int  # elements of a block
    nested_block: int = 0  # blocks that share a scale of scales; 0: scales are float32
    nested_offset: float = 0.0

    def decode(self, first: int, last: int, out: np.ndarray) -> None:
        elements = math.prod(self.shape)
        begin, end = first * self.width // 2, -(-min(elements, last * self.width) // 2)
        packed = np.zeros((last - first) * self.width // 2, np.uint8)
        packed[: end - begin] = self._bytes(begin, end)
        values = self._table("quant_map", 16)
        scales = self._scales(first, last)
        rows = packed.reshape(last - first, -1)
        decode_rows(rows, 4, True, values, scales, np.zeros_like(scales), first, 1, self.width, NO_GROUPS, out)

    def _bytes(self, begin: int, end: int) -> np.ndarray:
        """Codes as they are stored; `bnb_4bit_quant_storage` may have put them into elements of more bytes."""
        dtype = self.source.tensors[self.name].numpy_dtype
        first, last = begin // dtype.itemsize, -(-end // dtype.itemsize)
        stored = np.empty(last - first, dtype)
        self.source.read(self.name, first, last, stored)
        return stored.view(np.uint8)[begin - first * dtype.itemsize : end - first * dtype.itemsize]

    def _scales(self, first: int, last: int) -> np.ndarray:
        """float32 [last - first, 1]."""
        name = f"{self.name}.absmax"
        if not self.nested_block:
            scales = np.empty(last - first, np.float32)
            self.source.read(name, first, last, scales)
            return scales.reshape(-1, 1)
        codes = np.empty(last - first, np.uint8)
        self.source.read(name, first, last, codes)
        begin, end = first // self.nested_block, -(-last // self.nested_block)
        nested = np.empty(end - begin, np.float32)
        self.source.read(f"{self.name}.nested_absmax", begin, end, nested)
        of_each = nested[np.arange(first, last) // self.nested_block - begin]
        scales = self._table("nested_quant_map", 256)[codes] * of_each + np.float32(self.nested_offset)
        return scales.reshape(-1, 1)

    def _table(self, part: str, count: int) -> np.ndarray:
        values = np.empty(count, np.float32)
        self.source.read(f"{self.name}.{part}", 0, count, values)
        return values


@dataclass(frozen=True)
class _Int8Scales(ScaleGrid):
    """SCB is 127 times the scale."""

    def read(self, matrix: int, first: int, last: int) -> np.ndarray:
        return super().read(matrix, first, last) * _INT8_SCALE


def find_bitsandbytes(source: Checkpoint, settings: Mapping[str, Any], path: Path) -> QuantizedWeights:
    """The 4-bit and int8 weights of a bitsandbytes checkpoint. Raises CheckpointError where a part is missing or
    damaged."""
    weights, tensors, titles = QuantizedWeights("bitsandbytes"), source.tensors, set()
    for name in list(tensors):
        if _STATE in name:
            weight, _, quant_type = name.partition(_STATE)
            weights.add(weight, _four_bit(source, path, weight, name), *_parts(tensors, weight), name)
            titles.add(quant_type)
        elif name.endswith(".SCB"):
            module = name.removesuffix(".SCB")
            weight, layout = f"{module}.weight", f"{module}.weight_format"
            if weight not in tensors or tensors[weight].dtype != "I8":
                continue  # the scales of a weight that is stored as it is
            weights.add(weight, _int8(source, path, weight, name, layout), weight, name, layout)
            titles.add("int8")
    weights.title = f"bitsandbytes {' and '.join(sorted(titles))}".strip()
    return weights


def _parts(tensors: Mapping[str, Any], weight: str) -> list[str]:
    return [weight, *(name for name in tensors if name.startswith(f"{weight}.") and _STATE not in name)]


def _four_bit(source: Checkpoint, path: Path, weight: str, state_name: str) -> FourBitBlocks:
    state = _read_state(source, path, state_name)
    shape, block = tuple(state["shape"]), state["blocksize"]
    nested_block = state.get("nested_blocksize", 0)
    blocks = -(-math.prod(shape) // block)
    stored = source.tensors.get(weight)
    storage = stored.dtype if stored else "U8"
    room = -(-math.prod(shape) // 2) // ITEM_SIZES[storage]
    expected = {weight: (storage, room), f"{weight}.quant_map": ("F32", 16)}
    if nested_block:
        expected |= {
            f"{weight}.absmax": ("U8", blocks),
            f"{weight}.nested_absmax": ("F32", -(-blocks // nested_block)),
            f"{weight}.nested_quant_map": ("F32", 256),
        }
    else:
        expected |= {f"{weight}.absmax": ("F32", blocks)}
    for name, (dtype, count) in expected.items():
        info = source.tensors.get(name)
        if info is None or (info.dtype, info.numel) != (dtype, count):
            seen = "is not there" if info is None else f"is {info.dtype} {list(info.shape)}"
            raise CheckpointError(
                f"{path}: {weight!r} is a bitsandbytes weight of {list(shape)}; it needs {name!r} with {count} "
                "elements "
                f"of {dtype}, which {seen}; download it again",
                path=path,
            )
    return FourBitBlocks(source, shape, weight, block, nested_block, float(state.get("nested_offset", 0.0)))


def _read_state(source: Checkpoint, path: Path, name: str) -> dict[str, Any]:
    """The JSON that a uint8 tensor holds, its numbers checked."""
    info = source.tensors[name]
    if info.dtype != "U8" or info.numel > 1 << 16:
        raise CheckpointError(f"{path}: {name!r} is {info.dtype} {list(info.shape)}, not bytes of JSON", path=path)
    text = np.empty(info.numel, np.uint8)
    source.read(name, 0, info.numel, text)
    if not text.any():
        raise CheckpointError(
            f"{path}: the shapes of bitsandbytes weights are in the weights, which were not fetched; download the "
            "model",
            path=path,
        )
    try:
        state = parse_json(text.tobytes(), path, part=name)
        sizes = [*state["shape"], state["blocksize"], state.get("nested_blocksize", 1)]
        if not all(type(size) is int and 0 < size < 1 << 40 for size in sizes) or state["blocksize"] % 2:
            raise ValueError(f"sizes {sizes}")
        float(state.get("nested_offset", 0.0))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: quantized by bitsandbytes to 4 bit, and {name!r}, which describes a weight, is not the JSON that "
            f"bitsandbytes writes ({type(error).__name__}); the file is damaged. Take the unquantized model",
            path=path,
        ) from error
    return state


def _int8(source: Checkpoint, path: Path, weight: str, scales: str, layout: str) -> PackedRows:
    shape, count = source.tensors[weight].shape, source.tensors[scales].numel
    if len(shape) != 2 or count != shape[0]:
        raise CheckpointError(
            f"{path}: {weight!r} is {list(shape)} and {scales!r} has {count} elements, not one for each row; download "
            "it again",
            path=path,
        )
    if layout in source.tensors:
        stored = np.empty(source.tensors[layout].numel, np.uint8)
        source.read(layout, 0, len(stored), stored)
        if stored.any():
            raise CheckpointError(
                f"{path}: {weight!r} is stored in the layout {stored[0]} of a GPU (col_turing or col_ampere); only "
                "rows "
                "are decoded. Load it with bitsandbytes and save it again",
                path=path,
            )
    grid = _Int8Scales(source, scales, shape[0], 1, (1, shape[1]))
    return PackedRows(source, shape, weight, 8, values_of("I8"), grid)
