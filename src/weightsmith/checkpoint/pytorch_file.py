"""One PyTorch checkpoint (`pytorch_model.bin`, `consolidated.00.pth`) read without running it.

The layout since torch 1.6 is a zip archive: `data.pkl` describes tensors, `data/KEY` holds the bytes of each storage.
The pickle is walked by an unpickler that knows the few names a state dict needs and turns each into a plain
description; any other name is refused, so nothing of the file is ever executed. Source:
https://github.com/pytorch/pytorch/blob/main/torch/serialization.py.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.checkpoint.checkpoint import TensorInfo, read_transposed
from weightsmith.checkpoint.dtypes import ITEM_SIZES
from weightsmith.checkpoint.file_range import RangeFile
from weightsmith.errors import CheckpointError

MAX_PICKLE_BYTES = 100_000_000  # as for a safetensors header: no state dict's description is larger
_LOCAL_HEADER = 30  # bytes before the name in front of each zip entry
_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
# What training checkpoints hold beside weights: names of dtypes.
_DTYPES = {
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
    "float",
    "half",
}
_NESTED = ("state_dict", "model_state_dict", "model", "module")  # where training scripts put the weights


@dataclass(frozen=True, slots=True)
class _StorageDtype:
    """A storage's dtype, as the safetensors format spells it."""

    dtype: str


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: str


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> _Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise ValueError("a tensor without a storage")
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("sizes, strides and offsets are non-negative integers")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(data: _Tensor, *_: Any) -> _Tensor:
    return data


class _Describer(pickle.Unpickler):
    """An unpickler that can make dictionaries, numbers and descriptions of tensors, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return _rebuild_tensor
        if module == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return _rebuild_parameter
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _StorageDtype(_STORAGES[name])
        if module == "torch" and name in _DTYPES:
            return name
        if (module, name) == ("torch", "Size"):
            return tuple
        raise CheckpointError(f"asks for {module}.{name}, which weights do not need and which is not run")

    def persistent_load(self, pid: Any) -> _Storage:
        tag, storage_dtype, key = pid[:3]
        if tag != "storage" or not isinstance(storage_dtype, _StorageDtype) or not isinstance(key, str):
            raise ValueError("an unknown kind of storage")
        return _Storage(key, storage_dtype.dtype)


class PyTorchFile:
    """A checkpoint of one `.bin`, `.pth` or `.pt` file. `aliases`: tensors that are another one under a second name
    (tied weights). Raises CheckpointError for a file that cannot be true or asks for code."""

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, RangeFile(path)
        self.tensors: dict[str, TensorInfo] = {}
        self.aliases: dict[str, str] = {}
        self._where: dict[str, tuple[int, _Tensor]] = {}
        entries, prefix = self._entries()
        first: dict[_Tensor, str] = {}
        for name, tensor in _weights(self._described(entries, prefix)):
            self._add(name, tensor, entries.get(f"{prefix}data/{tensor.storage.key}"))
            if tensor in first:
                self.aliases[name] = first[tensor]
            first.setdefault(tensor, name)
        if not self.tensors:
            raise CheckpointError(f"{path}: no tensors in it", path=path)

    def _entries(self) -> tuple[dict[str, tuple[int, int]], str]:
        """Name of each entry -> (offset of its local header, bytes of its content), and the archive's folder."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                infos = archive.infolist()
        except Exception as error:  # zipfile raises whatever the damage makes of it
            raise CheckpointError(
                f"{self.path}: not a whole PyTorch file of the kind written since torch 1.6 ({error}); download it "
                "again, or load it with torch.load(..., weights_only=True) and save it as safetensors",
                path=self.path,
            ) from error
        entries = {}
        for info in infos:
            end = info.header_offset + _LOCAL_HEADER + info.file_size
            if info.compress_type != zipfile.ZIP_STORED or info.header_offset < 0 or end > self._file.size:
                raise CheckpointError(
                    f"{self.path}: the entry {info.filename!r} is compressed or cut short", path=self.path
                )
            if info.filename in entries:
                raise CheckpointError(f"{self.path}: the entry {info.filename!r} is there twice", path=self.path)
            entries[info.filename] = (info.header_offset, info.file_size)
        pickles = [name for name in entries if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            raise CheckpointError(f"{self.path}: a zip archive, but not one that torch.save wrote", path=self.path)
        prefix = pickles[0].removesuffix("data.pkl")
        header, size = entries.get(f"{prefix}byteorder", (0, 0))
        if size and self._file.bytes_at(self._content(header), min(size, 16)) == b"big":
            raise CheckpointError(
                f"{self.path}: written on a big-endian machine; save it again on a little-endian machine",
                path=self.path,
            )
        return entries, prefix

    def _content(self, header: int) -> int:
        """Where the content behind a local header begins: torch pads the header so that it is aligned."""
        lengths = self._file.bytes_at(header + 26, 4)
        return header + _LOCAL_HEADER + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")

    def _described(self, entries: Mapping[str, tuple[int, int]], prefix: str) -> Any:
        header, size = entries[f"{prefix}data.pkl"]
        if size > MAX_PICKLE_BYTES:
            raise CheckpointError(
                f"{self.path}: its description of the tensors is {size} bytes, implausibly large", path=self.path
            )
        try:
            return _Describer(io.BytesIO(self._file.bytes_at(self._content(header), size))).load()
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}", path=self.path) from error
        except Exception as error:  # a damaged pickle raises whatever its damage makes of it
            raise CheckpointError(
                f"{self.path}: its description of the tensors is damaged: {error!r:.200}", path=self.path
            ) from error

    def _add(self, name: str, tensor: _Tensor, entry: tuple[int, int] | None) -> None:
        dtype = tensor.storage.dtype
        if entry is None:
            raise CheckpointError(
                f"{self.path}: the bytes of tensor {name!r} are missing; download it again", path=self.path
            )
        if name in self.tensors:
            raise CheckpointError(f"{self.path}: tensor {name!r} is listed twice", path=self.path)
        if not (_is_contiguous(tensor) or _is_transposed(tensor)):
            raise CheckpointError(
                f"{self.path}: tensor {name!r} is stored with the strides {list(tensor.strides)}; load and save it "
                "with .contiguous() first",
                path=self.path,
            )
        if (tensor.offset + math.prod(tensor.shape)) * ITEM_SIZES[dtype] > entry[1]:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} claims {list(tensor.shape)} elements, its storage has {entry[1]} bytes",
                path=self.path,
            )
        self.tensors[name] = TensorInfo(tensor.shape, dtype)
        self._where[name] = (entry[0], tensor)

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        header, tensor = self._where[name]
        dtype = self.tensors[name].dtype
        size = ITEM_SIZES[dtype]
        offset = self._content(header) + tensor.offset * size
        if _is_contiguous(tensor):
            return self._file.read_as(offset + start * size, dtype, out)

        def read(first: int, last: int, into: np.ndarray) -> None:
            self._file.read_as(offset + first * size, dtype, into)

        rows, columns = tensor.shape
        read_transposed(read, (columns, rows), start, stop, out)


def _is_contiguous(tensor: _Tensor) -> bool:
    expected = 1
    for length, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if length != 1 and stride != expected:
            return math.prod(tensor.shape) == 0
        expected *= length
    return True


def _is_transposed(tensor: _Tensor) -> bool:
    return len(tensor.shape) == 2 and tensor.strides == (1, tensor.shape[0])


def _weights(content: Any) -> Iterator[tuple[str, _Tensor]]:
    """The tensors of a state dict, or of the one inside a training checkpoint."""
    if not isinstance(content, Mapping):
        return
    if not any(isinstance(value, _Tensor) for value in content.values()):
        nested = next((content[key] for key in _NESTED if isinstance(content.get(key), Mapping)), {})
        yield from _weights(nested)
        return
    for name, value in content.items():
        if isinstance(value, _Tensor):
            yield str(name), value
