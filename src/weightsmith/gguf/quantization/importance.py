"""Importance matrices: for every column of a weight matrix, how large the activations are that it meets. A quantizer
then rounds those columns with more care that matter more.

The files are llama.cpp's (tools/imatrix/README.md): GGUF with `NAME.in_sum2`, sums of squares, and `NAME.counts`, and
the older binary one, which is read only.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.errors import CheckpointError, ExportError
from weightsmith.files.inputs.read_input import MAX_TEXT_BYTES, open_regular, read_bytes, read_head

SUMS, COUNTS = ".in_sum2", ".counts"


@dataclass
class Importance:
    """Importance by the name of a weight: `sums` float32 [matrices, columns] and `counts` float32 [matrices], one
    matrix but for experts. `chunks` of `chunk_size` tokens from `dataset`."""

    sums: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    dataset: str
    chunks: int
    chunk_size: int

    def entries(self) -> Any:
        """What `llama_model_quantize_params.imatrix` points to: mean squares, an entry without a name at the end."""
        from llama_cpp import llama_cpp

        alive = []  # what the entries point to lives as long as they do
        entries: Any = (llama_cpp.llama_model_imatrix_data * (len(self.sums) + 1))()
        for entry, (name, sums) in zip(entries, self.sums.items(), strict=False):
            counts = self.counts[name][:, None]
            # An expert that was never asked says nothing about its columns: all alike.
            means = np.where(counts > 0, sums / np.maximum(counts, 1), 1.0).astype(np.float32).reshape(-1)
            label = name.encode()
            alive += [means, label]
            entry.name, entry.size = label, means.size
            entry.data = means.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entries.kept = alive
        return entries

    def write(self, path: Path) -> None:
        """Write it as GGUF."""
        from gguf import GGUFWriter

        writer = GGUFWriter(path, "")
        writer.kv_data[0].clear()  # an importance matrix has no architecture
        writer.add_string("general.type", "imatrix")
        writer.add_array("imatrix.datasets", [self.dataset])
        writer.add_uint32("imatrix.chunk_count", self.chunks)
        writer.add_uint32("imatrix.chunk_size", self.chunk_size)
        for name in sorted(self.sums):
            writer.add_tensor(name + SUMS, self.sums[name].astype(np.float32))
            writer.add_tensor(name + COUNTS, self.counts[name].astype(np.float32)[:, None])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def read_importance(path: Path) -> Importance:
    """A file of either kind. Raises ExportError where it is no importance matrix."""
    head = read_head(open_regular(path, ExportError), 4)
    return _read_gguf(path) if head == b"GGUF" else _read_binary(path)


def _read_gguf(path: Path) -> Importance:
    try:
        file = GGUFFile(path)
    except CheckpointError as error:
        raise ExportError(str(error)) from error
    names = [name.removesuffix(SUMS) for name in file.tensors if name.endswith(SUMS)]
    if file.metadata.get("general.type") != "imatrix" or not names:
        raise ExportError(f"{path}: is a GGUF file, but not an importance matrix", path=path)
    importance = Importance({}, {}, "", 0, int(file.metadata.get("imatrix.chunk_size") or 0))
    importance.dataset = ", ".join(map(str, file.metadata.get("imatrix.datasets") or []))
    importance.chunks = int(file.metadata.get("imatrix.chunk_count") or 0)
    for name in names:
        for suffix, into in ((SUMS, importance.sums), (COUNTS, importance.counts)):
            info = file.tensors.get(name + suffix)
            if info is None:
                raise ExportError(f"{path}: {name} has no {suffix[1:]}", path=path)
            values = np.empty(info.numel, np.float32)
            file.read(name + suffix, 0, info.numel, values)
            into[name] = values.reshape(info.shape) if suffix == SUMS else values
        if importance.sums[name].ndim == 1:
            importance.sums[name] = importance.sums[name][None]
        if len(importance.sums[name]) != len(importance.counts[name]):
            raise ExportError(
                f"{path}: {name} has sums of {len(importance.sums[name])} matrices, counts of "
                f"{len(importance.counts[name])}",
                path=path,
            )
    return importance


def _read_binary(path: Path) -> Importance:
    """int32 entries; of each int32 length, name, int32 calls, int32 values, float32 sums; int32 chunks, int32 length,
    dataset."""
    content = read_bytes(path, limit=MAX_TEXT_BYTES, error=ExportError)
    offset = 0

    def take(form: str) -> Any:
        nonlocal offset
        size = struct.calcsize(form)
        if offset + size > len(content):
            raise ExportError(f"{path}: not an importance matrix, or cut short", path=path)
        offset += size
        return struct.unpack_from(form, content, offset - size)

    importance = Importance({}, {}, "", 0, 0)
    (entries,) = take("<i")
    for _ in range(entries):
        (length,) = take("<i")
        (name,) = take(f"<{max(length, 0)}s")
        calls, values = take("<ii")
        if length <= 0 or values <= 0 or calls <= 0 or offset + 4 * values > len(content):
            raise ExportError(f"{path}: not an importance matrix, or cut short", path=path)
        label = name.decode(errors="replace")
        importance.sums[label] = np.frombuffer(content, np.float32, values, offset)[None]
        importance.counts[label] = np.array([calls], np.float32)
        offset += 4 * values
    if not importance.sums:
        raise ExportError(f"{path}: not an importance matrix: it has no entries", path=path)
    if offset + 8 <= len(content):
        importance.chunks, length = take("<ii")
        importance.dataset = content[offset : offset + max(length, 0)].decode(errors="replace")
    return importance
