"""One GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), dequantized block by block.

The header is ours, each count and length checked against the file's size before memory is allocated for it. The
arithmetic of the quantized types is llama.cpp's own (`gguf.quants`).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.checkpoint.checkpoint import TensorInfo
from weightsmith.checkpoint.dtypes import ITEM_SIZES, convert
from weightsmith.checkpoint.formats.file_range import RangeFile, check_name
from weightsmith.errors import CheckpointError, shown

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")  # in bytes, in front of each text
_PLAIN = {0: "F32", 1: "F16", 30: "BF16"}
_HEADER_CHUNK = 1 << 24
_MAX_HEADER = 1 << 29  # bytes: a vocabulary of a million tokens takes tens of MB
_MAX_STRING = 1 << 26
_MAX_VALUES = 1 << 24
# Keys that are read further on, and what they hold.
_TEXT_KEYS = ("general.architecture", "general.type", "adapter.type", "tokenizer.ggml.model", "tokenizer.ggml.pre")
_LIST_KEYS = {
    "tokenizer.ggml.tokens": str,
    "tokenizer.ggml.merges": str,
    "tokenizer.ggml.token_type": int,
    "tokenizer.ggml.scores": float,
}


class _Cursor:
    """Reads little-endian values from the head of the file, fetching more of it as needed."""

    def __init__(self, file: RangeFile) -> None:
        self.file, self.at, self.buffer = file, 0, b""

    def take(self, count: int) -> bytes:
        if count > min(self.file.size, _MAX_HEADER) - self.at:
            raise CheckpointError(
                f"{self.file.path}: the GGUF header needs {count} bytes at {self.at}, the file has {self.file.size}; "
                "it is cut short or damaged; download it again",
                path=self.file.path,
            )
        while len(self.buffer) < self.at + count:
            self.buffer += self.file.bytes_at(len(self.buffer), max(_HEADER_CHUNK, self.at + count - len(self.buffer)))
        self.at += count
        return self.buffer[self.at - count : self.at]

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        count = self.number("Q")
        if count > _MAX_STRING:
            raise CheckpointError(
                f"{self.file.path}: a text in the GGUF header claims {count:,} bytes; it is damaged, download it again",
                path=self.file.path,
            )
        return self.take(count).decode("utf-8", errors="replace")

    def value(self, value_type: int) -> Any:
        if value_type in _SCALARS:
            return self.number(_SCALARS[value_type])
        if value_type == _STRING:
            return self.string()
        if value_type != _ARRAY:
            raise CheckpointError(f"{self.file.path}: unknown GGUF value type {value_type}", path=self.file.path)
        item, count = self.number("I"), self.number("Q")
        if count > _MAX_VALUES:
            raise CheckpointError(
                f"{self.file.path}: an array in the GGUF header claims {count:,} values; it is damaged, download "
                "it again",
                path=self.file.path,
            )
        if item in _SCALARS:
            code = _SCALARS[item]
            return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize("<" + code))))
        if item != _STRING or count * 8 > self.file.size:
            raise CheckpointError(
                f"{self.file.path}: a GGUF array of {count} values of type {item} cannot be read", path=self.file.path
            )
        return self._strings(count)

    def _strings(self, count: int) -> list[str]:
        """As `string` so many times. What has been fetched is gone through here: a vocabulary has 100,000 and more."""
        strings: list[str] = []
        while len(strings) < count:
            strings.append(self.string())  # fetches what is needed, and refuses what cannot be
            buffer, at, fetched = self.buffer, self.at, min(len(self.buffer), self.file.size, _MAX_HEADER)
            while len(strings) < count and (begin := at + _LENGTH.size) <= fetched:
                end = begin + _LENGTH.unpack_from(buffer, at)[0]
                if end > fetched or end - begin > _MAX_STRING:
                    break
                strings.append(buffer[begin:end].decode("utf-8", errors="replace"))
                at = end
            self.at = at
        return strings


class GGUFFile:
    """A GGUF file as a checkpoint, in llama.cpp's names and row order. Quantized tensors are listed as F32."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = RangeFile(path)
        cursor = _Cursor(self._file)
        if cursor.take(4) != b"GGUF":
            raise CheckpointError(f"{path}: not a GGUF file", path=path)
        version, tensor_count, key_count = cursor.number("I"), cursor.number("Q"), cursor.number("Q")
        if version not in (2, 3):
            raise CheckpointError(f"{path}: GGUF version {version} is not known; versions 2 and 3 are read", path=path)
        self.metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = cursor.string()
            self.metadata[key] = cursor.value(cursor.number("I"))
        _check_metadata(path, self.metadata)
        self.tensors: dict[str, TensorInfo] = {}
        self._where: dict[str, tuple[int, int, int, int]] = {}  # type, block elements, block bytes, offset
        relative: list[tuple[str, int, int]] = []
        for _ in range(tensor_count):
            name, dimensions = cursor.string(), cursor.number("I")
            check_name(path, name)
            if not 1 <= dimensions <= 4:
                raise CheckpointError(f"{path}: tensor {shown(name)} claims {dimensions} dimensions", path=path)
            shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]
            ggml_type, offset = cursor.number("I"), cursor.number("Q")
            if name in self.tensors:
                raise CheckpointError(f"{path}: tensor {shown(name)} is listed twice", path=path)
            self.tensors[name] = TensorInfo(shape, _PLAIN.get(ggml_type, "F32"))
            relative.append((name, ggml_type, offset))
        alignment = self.metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= _HEADER_CHUNK:
            raise CheckpointError(f"{path}: general.alignment is {shown(alignment)}", path=path)
        data = -(-cursor.at // alignment) * alignment
        for name, ggml_type, offset in relative:
            elements, size = _block_size(path, name, ggml_type)
            shape = self.tensors[name].shape
            if shape and shape[-1] % elements:
                raise CheckpointError(
                    f"{path}: tensor {name!r}: rows of {shape[-1]} do not divide into blocks of {elements}", path=path
                )
            if data + offset + math.prod(shape) // elements * size > self._file.size:
                raise CheckpointError(
                    f"{path}: the file is cut short: tensor {name!r} lies beyond its end; download it again", path=path
                )
            self._where[name] = (ggml_type, elements, size, data + offset)
        self._check_all_bytes(data, alignment)

    def _check_all_bytes(self, data: int, alignment: int) -> None:
        """As llama.cpp: each tensor begins where the one before it ends, at the next multiple of the alignment."""
        place = data
        for name, (_, elements, size, offset) in sorted(self._where.items(), key=lambda item: (item[1][3], item[0])):
            if offset != place:
                what = "shares bytes with another tensor" if offset < place else "lies behind bytes of no tensor"
                raise CheckpointError(f"{self.path}: tensor {shown(name)} {what}; download it again", path=self.path)
            place += -(-(self.tensors[name].numel // elements * size) // alignment) * alignment
        if self._file.size > place + alignment:
            raise CheckpointError(
                f"{self.path}: {self._file.size - place} bytes at the end belong to no tensor; download it again",
                path=self.path,
            )

    def ggml_types(self) -> list[str]:
        """The ggml types its tensors have, most frequent first: Q4_1, F32."""
        numbers = [ggml_type for ggml_type, *_ in self._where.values()]
        names = dict(_PLAIN)
        try:
            from gguf.constants import GGMLQuantizationType

            names.update({ggml_type.value: ggml_type.name for ggml_type in GGMLQuantizationType})
        except ImportError:
            pass  # all its tensors are plain ones then, or it could not have been opened
        return [names[ggml_type] for ggml_type in sorted(set(numbers), key=lambda ggml_type: -numbers.count(ggml_type))]

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        ggml_type, elements, size, offset = self._where[name]
        if ggml_type in _PLAIN:
            self._file.read_as(offset + start * size, _PLAIN[ggml_type], out)
            return
        if start == stop:
            return
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        first, last = start // elements, -(-stop // elements)
        packed = np.empty((last - first) * size, np.uint8)
        self._file.read_into(offset + first * size, packed)
        values = dequantize(packed, GGMLQuantizationType(ggml_type))
        convert(values.reshape(-1)[start - first * elements : stop - first * elements], out)


def _block_size(path: Path, name: str, ggml_type: int) -> tuple[int, int]:
    """(elements per block, bytes per block) of a ggml type."""
    if ggml_type in _PLAIN:
        return 1, ITEM_SIZES[_PLAIN[ggml_type]]
    try:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    except ImportError as error:
        raise CheckpointError(
            f"{path}: reading quantized GGUF needs `pip install 'weightsmith[gguf]'`", path=path
        ) from error
    try:
        elements, size = GGML_QUANT_SIZES[GGMLQuantizationType(ggml_type)]
        _try(ggml_type, size)
        return elements, size
    except (ValueError, KeyError, NotImplementedError) as error:
        raise CheckpointError(
            f"{path}: tensor {shown(name)} has ggml type {ggml_type}, which cannot be read", path=path
        ) from error


@lru_cache(maxsize=64)
def _try(ggml_type: int, size: int) -> None:
    """Raises NotImplementedError where blocks of a type cannot be dequantized."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    dequantize(np.zeros(size, np.uint8), GGMLQuantizationType(ggml_type))


def _check_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """Raises CheckpointError for a key that holds something of another type than it should."""
    for key in _TEXT_KEYS:
        if key in metadata and not isinstance(metadata[key], str):
            raise CheckpointError(f"{path}: {key} is {shown(metadata[key])}, not a text; download it again", path=path)
    for key, kind in _LIST_KEYS.items():
        values = metadata.get(key)
        if values is not None and not (isinstance(values, list) and all(isinstance(v, kind) for v in values)):
            raise CheckpointError(
                f"{path}: {key} is {shown(values)}, not a list of {kind.__name__}; download it again", path=path
            )
