"""MXFP4 experts as gpt-oss has them: `X_blocks`, uint8 [experts, outputs, groups, 16], two 4-bit floats in a byte, the
low four bits first, and `X_scales`, uint8 [experts, outputs, groups], the exponent of each group of 32.

The weight X is [experts, inputs, outputs], transposed (OCP Microscaling 1.0; `transformers/integrations/mxfp4.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.blocks.dequantize import decode_across
from weightsmith.checkpoint.checkpoint import Checkpoint, by_matrix
from weightsmith.checkpoint.views.quantized.decoded import QuantizedWeights
from weightsmith.checkpoint.views.quantized.packing.code_values import FP4, values_of
from weightsmith.checkpoint.views.transposed_panels import LastPanel, TransposedPanels
from weightsmith.errors import CheckpointError

_GROUP = 32


@dataclass(frozen=True)
class Mxfp4Experts:
    """One tensor of all experts, in rows of inputs."""

    shape: tuple[int, int, int]
    blocks: TransposedPanels  # of uint8 [outputs, inputs / 2]
    scales: TransposedPanels  # of uint8 [outputs, inputs / 32]

    @property
    def width(self) -> int:
        return self.shape[2]

    def decode(self, first: int, last: int, out: np.ndarray) -> None:
        for expert, begin, end, start in by_matrix(first, last, self.shape[1]):
            self._decode_expert(expert, begin, end, out[start : start + end - begin])

    def _decode_expert(self, expert: int, begin: int, end: int, out: np.ndarray) -> None:
        inputs = np.arange(begin, end)
        packed = self.blocks.read(expert, begin // 2, -(-end // 2))
        exponents = self.scales.read(expert, begin // _GROUP, -(-end // _GROUP))
        scales = values_of("F8_E8M0")[exponents]
        byte_of, shift_of = inputs // 2 - begin // 2, inputs % 2 * 4
        scale_row_of = inputs // _GROUP - begin // _GROUP
        decode_across(packed, byte_of, shift_of, FP4, scales, np.zeros_like(scales), scale_row_of, 1, out)


def find_mxfp4(source: Checkpoint, settings: Mapping[str, Any], path: Path) -> QuantizedWeights:
    """The experts of an MXFP4 checkpoint. Raises CheckpointError for blocks and scales that do not fit together."""
    weights, tensors = QuantizedWeights("MXFP4"), source.tensors
    roles = LastPanel(), LastPanel()
    for blocks in [name for name in tensors if name.endswith("_blocks") and tensors[name].dtype == "U8"]:
        name = blocks.removesuffix("_blocks")
        scales = f"{name}_scales"
        shape, scale_shape = tensors[blocks].shape, tensors[scales].shape if scales in tensors else ()
        if len(shape) != 4 or shape[3] * 2 != _GROUP or scale_shape != shape[:3] or 0 in shape:
            raise CheckpointError(
                f"{path}: {blocks!r} is {list(shape)} and {scales!r} {list(scale_shape)}; MXFP4 experts are [experts, "
                "outputs, groups, 16] and [experts, outputs, groups]; download it again",
                path=path,
            )
        experts, outputs, groups, _ = shape
        decoder = Mxfp4Experts(
            (experts, groups * _GROUP, outputs),
            TransposedPanels(source, blocks, outputs, groups * _GROUP // 2, roles[0]),
            TransposedPanels(source, scales, outputs, groups, roles[1]),
        )
        weights.add(name, decoder, blocks, scales)
    return weights
