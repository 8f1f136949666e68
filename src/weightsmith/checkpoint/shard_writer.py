"""Output shards laid out before the first byte is computed; any thread then writes its block in place."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xxhash

from weightsmith.checkpoint.checkpoint import TensorInfo
from weightsmith.checkpoint.dtypes import ITEM_SIZES
from weightsmith.checkpoint.weights_folder import INDEX, SINGLE
from weightsmith.errors import OutputError
from weightsmith.files.system_calls import BINARY, bytes_at, reserve, sync_data, write_at

_BLOCK_BYTES = 4 << 20  # that are read at once to check what is there


class ShardWriter:
    """Creates the files of a Hugging Face checkpoint in `folder`; each shard holds at most `max_bytes` of tensors.

    `resumed`: the files are there already, laid out by an earlier run for the same tensors, and are written further.
    Raises OutputError where they are not what that run made."""

    def __init__(
        self, folder: Path, tensors: Mapping[str, TensorInfo], max_bytes: int, *, resumed: bool = False
    ) -> None:
        self._resumed, self._folder = resumed, folder
        self._bytes = {name: info.nbytes for name, info in tensors.items()}
        self.files: list[str] = []
        self._where: dict[str, tuple[int, int]] = {}  # which file, byte offset
        self._sizes = {name: ITEM_SIZES[info.dtype] for name, info in tensors.items()}
        self._fds: list[int] = []
        shards = _split(tensors, max_bytes)
        weight_map: dict[str, str] = {}
        for number, names in enumerate(shards, start=1):
            file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            self.files.append(file)
            self._create(folder / file, {name: tensors[name] for name in names})
            weight_map |= dict.fromkeys(names, file)
        if len(shards) > 1:
            total = sum(info.nbytes for info in tensors.values())
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    @property
    def file_of(self) -> dict[str, str]:
        """The name of the shard that holds each tensor."""
        return {name: self.files[number] for name, (number, _) in self._where.items()}

    def _create(self, path: Path, tensors: dict[str, TensorInfo]) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offset = 0
        # Largest alignment first, so that every tensor starts at a multiple of its own item size.
        ordered = sorted(tensors, key=lambda name: (-ITEM_SIZES[tensors[name].dtype], name))
        for name in ordered:
            info = tensors[name]
            header[name] = {
                "dtype": info.dtype,
                "shape": list(info.shape),
                "data_offsets": [offset, offset + info.nbytes],
            }
            offset += info.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        head, start = len(text).to_bytes(8, "little") + text, 8 + len(text)
        for name in ordered:
            begin = header[name]["data_offsets"][0]  # type: ignore[index]
            self._where[name] = (len(self._fds), start + begin)
        if self._resumed:
            return self._open(path, head, start + offset)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | BINARY, 0o644)
        self._fds.append(fd)
        os.write(fd, head)
        try:
            if offset:
                reserve(fd, path.parent, start, offset)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise OutputError(
                    f"{path.parent}: the disk is full: {offset:,} more bytes are needed", path=path.parent
                ) from error
            raise

    def _open(self, path: Path, head: bytes, size: int) -> None:
        try:
            self._fds.append(os.open(path, os.O_RDWR | BINARY))
        except OSError as error:
            raise OutputError(
                f"{path}: left by an interrupted run, cannot be opened: {error.strerror}; use --restart", path=path
            ) from error
        if os.fstat(self._fds[-1]).st_size != size or bytes_at(self._fds[-1], len(head), 0) != head:
            raise OutputError(
                f"{path}: was changed since its run was interrupted; discard it with --restart", path=path
            )

    def write(self, name: str, start: int, block: np.ndarray) -> None:
        """Write a 1-d block, already in the output dtype, or the bytes of one, at element `start` of a tensor. Any
        thread may call it."""
        number, offset = self._where[name]
        fd = self._fds[number]
        write_at(fd, block.view(np.uint8).data, offset + start * self._sizes[name])

    def digest(self, name: str) -> str:
        """XXH3 of the bytes of a tensor that an earlier run wrote."""
        number, offset = self._where[name]
        found, end = xxhash.xxh3_128(), offset + self._bytes[name]
        while offset < end and (block := bytes_at(self._fds[number], min(_BLOCK_BYTES, end - offset), offset)):
            found.update(block)
            offset += len(block)
        return found.hexdigest()

    def check_there(self) -> None:
        """Raises OutputError where a shard is not in its folder any more."""
        for fd, file in zip(self._fds, self.files, strict=True):
            path = self._folder / file
            if not path.exists() or not os.path.samestat(os.fstat(fd), os.stat(path)):
                raise OutputError(f"{path}: was removed while it was written; run again", path=path)

    def sync(self) -> None:
        """What was written so far is on the disk afterwards, and leaves the page cache to the inputs."""
        for fd in list(self._fds):
            sync_data(fd)

    def close(self, *, sync: bool) -> None:
        """Close all shards; with `sync`, their bytes are on the disk first."""
        for fd in self._fds:
            if sync:
                os.fsync(fd)
            os.close(fd)
        self._fds.clear()


def _split(tensors: Mapping[str, TensorInfo], max_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, info in tensors.items():
        if shards[-1] and filled + info.nbytes > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += info.nbytes
    return shards
