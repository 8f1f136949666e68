"""One safetensors file: the header is validated before any of its claims is used."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.checkpoint.checkpoint import TensorInfo
from weightsmith.checkpoint.dtypes import ITEM_SIZES
from weightsmith.checkpoint.formats.file_range import RangeFile, check_name
from weightsmith.errors import CheckpointError, shown
from weightsmith.files.inputs.read_input import parse_json

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
_LARGEST = 1 << 62  # bytes or elements
_MAX_RANK = 16  # dimensions: torch has 64, models at most 6


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
        header = parse_json(self._file.bytes_at(8, length), path, part="the safetensors header", unique=True)
        if not isinstance(header, dict):
            raise CheckpointError(f"{path}: the safetensors header is not a JSON object", path=path)
        header.pop("__metadata__", None)
        for name, entry in header.items():
            check_name(path, name)
            self._add(name, entry, 8 + length)
        self._check_all_bytes(8 + length)

    def _add(self, name: str, entry: Any, data_start: int) -> None:
        try:
            dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            if not isinstance(dtype, str):
                raise ValueError("dtype is a text")
            if not all(type(n) is int and 0 <= n < _LARGEST for n in (*shape, begin, end)) or len(shape) > _MAX_RANK:
                raise ValueError("sizes and offsets are non-negative integers")
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{self.path}: tensor {shown(name)} has a malformed header entry: {shown(entry)}", path=self.path
            ) from error
        if dtype not in ITEM_SIZES:
            raise CheckpointError(
                f"{self.path}: tensor {shown(name)} has dtype {shown(dtype)}, which cannot be merged; known: "
                f"{', '.join(ITEM_SIZES)}",
                path=self.path,
            )
        if end - begin != math.prod(shape) * ITEM_SIZES[dtype]:
            raise CheckpointError(
                f"{self.path}: tensor {shown(name)}: {end - begin} bytes cannot hold {dtype} {list(shape)}",
                path=self.path,
            )
        if data_start + end > self._file.size:
            raise CheckpointError(
                f"{self.path}: the file is cut short: tensor {shown(name)} ends at byte {data_start + end}, the "
                "file has "
                f"{self._file.size}; download or copy it again",
                path=self.path,
            )
        self.tensors[name] = TensorInfo(shape, dtype)
        self._offsets[name] = data_start + begin

    def _check_all_bytes(self, data_start: int) -> None:
        """As the reference implementation: tensors lie one behind the other, and nothing else is in the file."""
        spans = sorted((self._offsets[name], info.nbytes, name) for name, info in self.tensors.items())
        place, before = data_start, ""
        for offset, size, name in spans:
            if offset < place:
                raise CheckpointError(
                    f"{self.path}: tensors {shown(before)} and {shown(name)} share bytes, which no writer of this "
                    "format does; download it again",
                    path=self.path,
                )
            if offset > place:
                raise CheckpointError(
                    f"{self.path}: {offset - place} bytes before tensor {shown(name)} belong to no tensor; download "
                    "it again",
                    path=self.path,
                )
            place, before = offset + size, name
        if place != self._file.size:
            raise CheckpointError(
                f"{self.path}: {self._file.size - place} bytes at the end belong to no tensor; download it again",
                path=self.path,
            )

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        dtype = self.tensors[name].dtype
        self._file.read_as(self._offsets[name] + start * ITEM_SIZES[dtype], dtype, out)
