"""AWQ (https://arxiv.org/abs/2306.00978) as AutoAWQ's `gemm` version writes it: 4-bit codes of eight outputs in a
32-bit word, in the order 0, 2, 4, 6, 1, 3, 5, 7; a scale and a zero point for each group of inputs and each output.

weight[o, i] = scales[i / group size, o] * (code[i, o] - zero[i / group size, o]) (`awq/utils/packing_utils.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.blocks.dequantize import decode_across
from weightsmith.checkpoint.checkpoint import Checkpoint
from weightsmith.checkpoint.views.quantized.decoded import QuantizedWeights
from weightsmith.checkpoint.views.quantized.packing.code_values import unsigned
from weightsmith.checkpoint.views.transposed_panels import LastPanel, TransposedPanels
from weightsmith.errors import CheckpointError

_PER_WORD = 8
_PLACE_OF = np.array([0, 4, 1, 5, 2, 6, 3, 7])  # output of a word -> which four bits it has


@dataclass(frozen=True)
class AwqMatrix:
    """One matrix, in rows of outputs."""

    shape: tuple[int, int]
    words: TransposedPanels  # of int32 [inputs, outputs / 8]
    scales: TransposedPanels  # of [groups, outputs]
    zeros: TransposedPanels  # of int32 [groups, outputs / 8]
    group_size: int

    @property
    def width(self) -> int:
        return self.shape[1]

    def decode(self, first: int, last: int, out: np.ndarray) -> None:
        begin, end = first // _PER_WORD, -(-last // _PER_WORD)
        outputs = np.arange(first, last)
        places = _PLACE_OF[outputs % _PER_WORD]
        byte_of = (outputs // _PER_WORD - begin) * 4 + places // 2
        shift_of = (places % 2) * 4
        zeros = (_bytes(self.zeros.read(0, begin, end))[byte_of] >> shift_of[:, None].astype(np.uint8)) & 15
        scales = self.scales.read(0, first, last).astype(np.float32)
        decode_across(
            _bytes(self.words.read(0, begin, end)),
            byte_of,
            shift_of,
            unsigned(4),
            scales,
            zeros.astype(np.float32),
            np.arange(last - first),
            self.group_size,
            out,
        )


def _bytes(words: np.ndarray) -> np.ndarray:
    """int32 [words, n] as uint8 [4 * words, n]: the bytes of a word under each other, lowest first."""
    return np.ascontiguousarray(
        np.ascontiguousarray(words).view(np.uint8).reshape(len(words), -1, 4).transpose(0, 2, 1)
    ).reshape(4 * len(words), -1)


def find_awq(source: Checkpoint, settings: Mapping[str, Any], path: Path) -> QuantizedWeights:
    """The matrices of an AWQ checkpoint. Raises CheckpointError for versions other than `gemm`."""
    version = str(settings.get("version") or settings.get("format") or "gemm").lower()
    bits = settings.get("bits", settings.get("w_bit", 4))
    if version != "gemm" or bits != 4:
        raise CheckpointError(
            f"{path}: AWQ in the version {version!r} with {bits} bits, which is not decoded; known: gemm with 4 bits. "
            "Take the model it was made from",
            path=path,
        )
    weights, tensors = QuantizedWeights("AWQ, 4 bit"), source.tensors
    roles = LastPanel(), LastPanel(), LastPanel()
    for qweight in [name for name in tensors if name.endswith(".qweight")]:
        module = qweight.removesuffix(".qweight")
        parts = [f"{module}.{part}" for part in ("qweight", "qzeros", "scales")]
        shapes = [tensors[part].shape if part in tensors else () for part in parts]
        inputs, words = shapes[0] if len(shapes[0]) == 2 else (0, 0)
        groups, outputs = shapes[2] if len(shapes[2]) == 2 else (0, 0)
        if not inputs or not groups or shapes[1] != (groups, words) or words * _PER_WORD != outputs or inputs % groups:
            raise CheckpointError(
                f"{path}: {module!r} is packed as qweight {list(shapes[0])}, qzeros {list(shapes[1])}, scales "
                f"{list(shapes[2])}, which is not AWQ's gemm version; take the model it was made from",
                path=path,
            )
        decoder = AwqMatrix(
            (outputs, inputs),
            TransposedPanels(source, parts[0], inputs, words, roles[0]),
            TransposedPanels(source, parts[2], groups, outputs, roles[1]),
            TransposedPanels(source, parts[1], groups, words, roles[2]),
            inputs // groups,
        )
        weights.add(f"{module}.weight", decoder, *parts)
    return weights
