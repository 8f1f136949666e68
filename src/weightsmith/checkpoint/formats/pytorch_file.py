"""One PyTorch checkpoint (`pytorch_model.bin`, `consolidated.00.pth`) read without running it.

The layout since torch 1.6 is a zip archive: `data.pkl` describes tensors, `data/KEY` holds the bytes of each storage.
Source: https://github.com/pytorch/pytorch/blob/main/torch/serialization.py.
"""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.checkpoint.checkpoint import TensorInfo, read_transposed
from weightsmith.checkpoint.dtypes import ITEM_SIZES
from weightsmith.checkpoint.formats.file_range import RangeFile, check_name
from weightsmith.checkpoint.formats.pickled_tensors import StoredTensor, read_pickle
from weightsmith.errors import CheckpointError, shown

MAX_PICKLE_BYTES = 100_000_000  # as for a safetensors header: no state dict's description is larger
_LOCAL_HEADER = 30  # bytes before the name in front of each zip entry
_NESTED = ("state_dict", "model_state_dict", "model", "module")  # where training scripts put the weights
_MOST_NESTED = 8  # of these in each other


class PyTorchFile:
    """A checkpoint of one `.bin`, `.pth` or `.pt` file. `aliases`: tensors that are another one under a second name
    (tied weights). Raises CheckpointError for a file that cannot be true or asks for code."""

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, RangeFile(path)
        self.tensors: dict[str, TensorInfo] = {}
        self.aliases: dict[str, str] = {}
        self._where: dict[str, tuple[int, StoredTensor]] = {}
        entries, prefix = self._entries()
        first: dict[StoredTensor, str] = {}
        for name, tensor in _weights(self._described(entries, prefix)):
            self._add(name, tensor, entries.get(f"{prefix}data/{tensor.storage.key}"))
            if tensor in first:
                self.aliases[name] = first[tensor]
            first.setdefault(tensor, name)
        if not self.tensors:
            raise CheckpointError(f"{path}: no tensors in it", path=path)
        self._check_shares(entries, prefix)

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
                    f"{self.path}: the entry {shown(info.filename)} is compressed or cut short", path=self.path
                )
            if info.filename in entries:
                raise CheckpointError(f"{self.path}: the entry {shown(info.filename)} is there twice", path=self.path)
            entries[info.filename] = (info.header_offset, info.file_size)
        places = sorted(entries.values())
        if any(start + _LOCAL_HEADER + size > behind for (start, size), (behind, _) in pairwise(places)):
            raise CheckpointError(f"{self.path}: entries of the archive share bytes; download it again", path=self.path)
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
            return read_pickle(self._file.bytes_at(self._content(header), size))
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}", path=self.path) from error
        except Exception as error:  # a damaged pickle raises whatever its damage makes of it
            raise CheckpointError(
                f"{self.path}: its description of the tensors is damaged: {shown(str(error))}; download it again",
                path=self.path,
            ) from error

    def _add(self, name: str, tensor: StoredTensor, entry: tuple[int, int] | None) -> None:
        dtype = tensor.storage.dtype
        if entry is None:
            raise CheckpointError(
                f"{self.path}: the bytes of tensor {shown(name)} are missing; download it again", path=self.path
            )
        check_name(self.path, name)
        if name in self.tensors:
            raise CheckpointError(f"{self.path}: tensor {shown(name)} is listed twice", path=self.path)
        if not (_is_contiguous(tensor) or _is_transposed(tensor)):
            raise CheckpointError(
                f"{self.path}: tensor {shown(name)} is stored with the strides {list(tensor.strides)}; load and "
                "save it "
                "with .contiguous() first",
                path=self.path,
            )
        if (tensor.offset + math.prod(tensor.shape)) * ITEM_SIZES[dtype] > entry[1]:
            raise CheckpointError(
                f"{self.path}: tensor {shown(name)} claims {list(tensor.shape)} elements, its storage has "
                f"{entry[1]} bytes",
                path=self.path,
            )
        self.tensors[name] = TensorInfo(tensor.shape, dtype)
        self._where[name] = (entry[0], tensor)

    def _check_shares(self, entries: Mapping[str, tuple[int, int]], prefix: str) -> None:
        """Tensors may share a storage, but not its elements, unless they are one tensor under two names."""
        claimed: Counter[str] = Counter()
        for name, (_, tensor) in self._where.items():
            if name not in self.aliases:
                claimed[tensor.storage.key] += math.prod(tensor.shape) * ITEM_SIZES[tensor.storage.dtype]
        for key, count in claimed.items():
            if count > entries[f"{prefix}data/{key}"][1]:
                raise CheckpointError(
                    f"{self.path}: tensors share the elements of the storage {shown(key)}; load and save the model "
                    "with "
                    ".contiguous() tensors first",
                    path=self.path,
                )

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


def _is_contiguous(tensor: StoredTensor) -> bool:
    expected = 1
    for length, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if length != 1 and stride != expected:
            return math.prod(tensor.shape) == 0
        expected *= length
    return True


def _is_transposed(tensor: StoredTensor) -> bool:
    return len(tensor.shape) == 2 and tensor.strides == (1, tensor.shape[0])


def _weights(content: Any) -> Iterator[tuple[str, StoredTensor]]:
    """The tensors of a state dict, or of the one inside a training checkpoint."""
    for _ in range(_MOST_NESTED):
        if not isinstance(content, Mapping):
            return
        if any(isinstance(value, StoredTensor) for value in content.values()):
            break
        content = next((content[key] for key in _NESTED if isinstance(content.get(key), Mapping)), None)
    else:
        return
    for name, value in content.items():
        if isinstance(value, StoredTensor):
            yield str(name), value
