"""A checkpoint whose quantized weights are decoded when they are read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from weightsmith.checkpoint.checkpoint import Checkpoint, TensorInfo
from weightsmith.checkpoint.dtypes import convert


class Decoder(Protocol):
    """Decodes one tensor of `shape` in rows of `width` elements; they need not be the rows of its last dimension."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def width(self) -> int: ...

    def decode(self, first: int, last: int, out: np.ndarray) -> None:
        """Rows `first` to `last` into `out`, float32 [last - first, width]. Any thread may call it."""
        ...


@dataclass(frozen=True)
class Converted:
    """A tensor of 8-bit floats that are its values."""

    source: Checkpoint
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.tensors[self.name].shape

    @property
    def width(self) -> int:
        return self.shape[-1] if self.shape else 1

    def decode(self, first: int, last: int, out: np.ndarray) -> None:
        self.source.read(self.name, first * self.width, last * self.width, out.reshape(-1))


@dataclass
class QuantizedWeights:
    """What a format found in a checkpoint. `decoders`: name of a weight -> how it is decoded; `parts`: the tensors of
    the files that these are made of; `unused`: scales of activations and caches, which no weight needs."""

    title: str  # of the format, as a person would name it: GPTQ, 4 bit
    decoders: dict[str, Decoder] = field(default_factory=dict)
    parts: set[str] = field(default_factory=set)
    unused: set[str] = field(default_factory=set)

    def add(self, name: str, decoder: Decoder, *parts: str | None) -> None:
        self.decoders[name] = decoder
        self.parts.update(part for part in parts if part)


class DecodedCheckpoint:
    """`source` with the weights that `decoders` names decoded, and without the tensors `parts`. The values are computed
    in float32; the dtype is bfloat16, in which these models compute."""

    def __init__(self, source: Checkpoint, decoders: Mapping[str, Decoder], parts: Collection[str]) -> None:
        self._source, self._decoders = source, decoders
        self.tensors = {name: info for name, info in source.tensors.items() if name not in parts}
        for name, decoder in decoders.items():
            self.tensors[name] = TensorInfo(decoder.shape, "BF16", computed=True, decoded=True)

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        decoder = self._decoders.get(name)
        if decoder is None:
            return self._source.read(name, start, stop, out)
        if start == stop:
            return
        width = decoder.width
        first, last = -(-start // width), stop // width  # rows that are asked for as a whole
        if out.dtype == np.float32 and first < last:
            self._read_rows(decoder, start, first * width, out[: first * width - start])
            decoder.decode(first, last, out[first * width - start : last * width - start].reshape(-1, width))
            return self._read_rows(decoder, last * width, stop, out[last * width - start :])
        self._read_rows(decoder, start, stop, out)

    def _read_rows(self, decoder: Decoder, start: int, stop: int, out: np.ndarray) -> None:
        """Parts of rows, and other dtypes, by way of whole rows in float32."""
        if start == stop:
            return
        width = decoder.width
        first, last = start // width, -(-stop // width)
        rows = np.empty((last - first, width), np.float32)
        decoder.decode(first, last, rows)
        convert(rows.reshape(-1)[start - first * width : stop - first * width], out)
