"""One safetensors file: the header is validated before any of its claims is used."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.checkpoint.checkpoint import TensorInfo
from weightsmith.checkpoint.dtypes import ITEM_SIZES
from weightsmith.checkpoint.file_range import RangeFile
from weightsmith.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation


class SafetensorsFile:
    """A checkpoint of one `.safetensors` file. Raises CheckpointError for a header that cannot be true."""

    def __init__(self, path: Path) -> None:
        self._file = RangeFile(path)
        self.path = path
        self.tensors: dict[str, TensorInfo] = {}
        self._offsets: dict[str, int] = {}
        size = self._file.size
        prefix = self._file.bytes_at(0, 8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise CheckpointError(
                f"{path}: not a whole safetensors file ({size} bytes on disk, its header alone claims {length}); "
                "download or copy it again",
                path=path,
            )
        try:
            header = json.loads(self._file.bytes_at(8, length), object_pairs_hook=refuse_duplicates("tensor"))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{path}: the safetensors header cannot be read: {error}; download it again", path=path
            ) from error
        if not isinstance(header, dict):
            raise CheckpointError(f"{path}: the safetensors header is not a JSON object", path=path)
        header.pop("__metadata__", None)
        for name, entry in header.items():
            self._add(name, entry, 8 + length)

    def _add(self, name: str, entry: Any, data_start: int) -> None:
        try:
            dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            if not isinstance(dtype, str):
                raise ValueError("dtype is a text")
            if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
                raise ValueError("sizes and offsets are non-negative integers")
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} has a malformed header entry: {entry!r:.200}", path=self.path
            ) from error
        if dtype not in ITEM_SIZES:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} has dtype {dtype}, which cannot be merged; known: "
                f"{', '.join(ITEM_SIZES)}",
                path=self.path,
            )
        if end - begin != math.prod(shape) * ITEM_SIZES[dtype]:
            raise CheckpointError(
                f"{self.path}: tensor {name!r}: {end - begin} bytes cannot hold {dtype} {list(shape)}", path=self.path
            )
        if data_start + end > self._file.size:
            raise CheckpointError(
                f"{self.path}: the file is cut short: tensor {name!r} ends at byte {data_start + end}, the file has "
                f"{self._file.size}; download or copy it again",
                path=self.path,
            )
        self.tensors[name] = TensorInfo(shape, dtype)
        self._offsets[name] = data_start + begin

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        dtype = self.tensors[name].dtype
        self._file.read_as(self._offsets[name] + start * ITEM_SIZES[dtype], dtype, out)


def refuse_duplicates(what: str) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """A hook for json.loads: a key that comes twice raises ValueError instead of hiding its first value."""

    def make(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            names = [name for name, _ in pairs]
            duplicate = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the {what} {duplicate!r} is listed twice")
        return mapping

    return make
