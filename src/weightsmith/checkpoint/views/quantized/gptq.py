"""GPTQ (https://arxiv.org/abs/2210.17323) as AutoGPTQ and GPTQModel write it: codes of 2, 4 or 8 bits packed into
32-bit words along the inputs, a scale and a zero point for each group of inputs and each output.

weight[o, i] = scales[g_idx[i], o] * (code[i, o] - zero[g_idx[i], o]). A zero point is stored less one, unless the
config's `checkpoint_format` is `gptq_v2` (GPTQModel, `gptqmodel/utils/model.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.blocks.dequantize import decode_rows
from weightsmith.checkpoint.checkpoint import Checkpoint
from weightsmith.checkpoint.views.quantized.decoded import QuantizedWeights
from weightsmith.checkpoint.views.quantized.packing.code_values import unsigned
from weightsmith.checkpoint.views.quantized.packing.packed_rows import NO_GROUPS
from weightsmith.checkpoint.views.transposed_panels import LastPanel, TransposedPanels
from weightsmith.errors import CheckpointError

_FORMATS = {None: 1, "gptq": 1, "gptq_v2": 0}  # what a zero point is stored less


@dataclass(frozen=True)
class GptqMatrix:
    """One matrix, in rows of outputs."""

    source: Checkpoint
    shape: tuple[int, int]
    bits: int
    words: TransposedPanels  # of int32 [inputs / codes per word, outputs]
    scales: TransposedPanels  # of [groups, outputs]
    zeros: TransposedPanels  # of int32 [groups, outputs / codes per word]
    group_of: str | None
    group_size: int
    stored_less: int

    @property
    def width(self) -> int:
        return self.shape[1]

    def decode(self, first: int, last: int, out: np.ndarray) -> None:
        packed = np.ascontiguousarray(self.words.read(0, first, last)).view(np.uint8)
        scales = self.scales.read(0, first, last).astype(np.float32)
        group_of = NO_GROUPS
        if self.group_of:
            group_of = np.empty(self.width, np.int32)
            self.source.read(self.group_of, 0, self.width, group_of)
        zeros = self._zeros(first, last)
        values = unsigned(self.bits)
        decode_rows(packed, self.bits, False, values, scales, zeros, first, 1, self.group_size, group_of, out)

    def _zeros(self, first: int, last: int) -> np.ndarray:
        per_word, mask = 32 // self.bits, (1 << self.bits) - 1
        begin = first // per_word
        words = np.ascontiguousarray(self.zeros.read(0, begin, -(-last // per_word))).view(np.uint32)
        shifts = self.bits * np.arange(per_word, dtype=np.uint32)
        codes = (words[:, None, :] >> shifts[None, :, None]).reshape(-1, words.shape[1])
        codes = codes[first - begin * per_word : last - begin * per_word]
        return ((codes + self.stored_less) & mask).astype(np.float32)


def find_gptq(source: Checkpoint, settings: Mapping[str, Any], path: Path) -> QuantizedWeights:
    """The matrices of a GPTQ checkpoint. Raises CheckpointError for packings other than AutoGPTQ's."""
    stored_as = settings.get("checkpoint_format") or settings.get("format")
    if stored_as not in _FORMATS or settings.get("is_marlin_format"):
        raise CheckpointError(
            f"{path}: GPTQ in the format {stored_as or 'marlin'!r}, which is not decoded; known: gptq, gptq_v2. Take "
            "the model it was made from, or a GPTQ file in one of these formats",
            path=path,
        )
    weights, tensors = QuantizedWeights("GPTQ"), source.tensors
    roles = LastPanel(), LastPanel(), LastPanel()
    bits_used = set()
    for qweight in [name for name in tensors if name.endswith(".qweight")]:
        module = qweight.removesuffix(".qweight")
        parts = {part: f"{module}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx")}
        missing = [parts[part] for part in ("qzeros", "scales") if parts[part] not in tensors]
        if missing:
            raise CheckpointError(f"{path}: {qweight!r} is there, {missing[0]!r} is not; download it again", path=path)
        group_of = parts["g_idx"] if parts["g_idx"] in tensors else None
        (groups, outputs), zeros = _matrix(path, source, parts["scales"]), _matrix(path, source, parts["qzeros"])
        bits = 32 * zeros[1] // outputs if outputs else 0
        words_down, words_across = _matrix(path, source, qweight)
        inputs = words_down * 32 // bits if bits in (2, 4, 8) else 0
        if not inputs or words_across != outputs or zeros != (groups, outputs * bits // 32) or inputs % groups:
            raise CheckpointError(
                f"{path}: {module!r} is packed as qweight {list(tensors[qweight].shape)}, qzeros {list(zeros)}, scales "
                f"{[groups, outputs]}: no GPTQ of 2, 4 or 8 bits, which are the ones that are decoded; take the model "
                "it was made from",
                path=path,
            )
        bits_used.add(bits)
        size = settings.get("group_size", -1)
        group_size = size if type(size) is int and size > 0 and -(-inputs // size) == groups else inputs // groups
        decoder = GptqMatrix(
            source,
            (outputs, inputs),
            bits,
            TransposedPanels(source, qweight, words_down, outputs, roles[0]),
            TransposedPanels(source, parts["scales"], groups, outputs, roles[1]),
            TransposedPanels(source, parts["qzeros"], groups, zeros[1], roles[2]),
            group_of,
            group_size,
            _FORMATS[stored_as],
        )
        weights.add(f"{module}.weight", decoder, *parts.values())
    weights.title = f"GPTQ, {' and '.join(map(str, sorted(bits_used)))} bit"
    return weights


def _matrix(path: Path, source: Checkpoint, name: str) -> tuple[int, int]:
    shape = source.tensors[name].shape
    if len(shape) != 2 or 0 in shape:
        raise CheckpointError(f"{path}: {name!r} is {list(shape)} and not a matrix; download it again", path=path)
    return shape[0], shape[1]
