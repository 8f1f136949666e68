"""Small quantized weights of every format: their tensors, their configuration, and the values that the format's own
library computes, or the published formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

ROWS, COLUMNS = 72, 192


@dataclass
class Sample:
    """`tensors` of one weight `a.weight` as files hold them; `values`: float32, what they stand for."""

    tensors: dict[str, torch.Tensor]
    config: dict[str, Any]
    values: torch.Tensor
    name: str = "a.weight"
    tolerance: float = 0.0  # relative


def random_weight(rows: int = ROWS, columns: int = COLUMNS) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows * columns))


def bitsandbytes_4bit(
    quant_type: str, nested: bool, weight: torch.Tensor | None = None, storage: torch.dtype = torch.uint8
) -> Sample:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = random_weight() if weight is None else weight
    # In rows of a block: on a processor, version 0.50.2 decodes blocks that cross rows otherwise than it made them.
    packed, state = quantize_4bit(
        weight.reshape(-1, 64), quant_type=quant_type, compress_statistics=nested, quant_storage=storage
    )
    values = dequantize_4bit(packed, state).float().reshape(weight.shape)
    state.shape = weight.shape
    parts = {f"a.weight.{key}": value for key, value in state.as_dict(packed=True).items()}
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "_load_in_4bit": True}
    return Sample({"a.weight": packed, **parts}, config, values)


def bitsandbytes_int8(weight: torch.Tensor | None = None) -> Sample:
    from bitsandbytes.functional import int8_vectorwise_dequant, int8_vectorwise_quant

    weight = random_weight() if weight is None else weight
    codes, largest, _ = int8_vectorwise_quant(weight.half())
    tensors = {"a.weight": codes, "a.SCB": largest, "a.weight_format": torch.zeros((), dtype=torch.uint8)}
    config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    return Sample(tensors, config, int8_vectorwise_dequant(codes, largest), tolerance=2e-7)


def fp8(scale_dtype: str, tile: tuple[int, int] = (64, 128), weight: torch.Tensor | None = None) -> Sample:
    """Tiles with partial last ones; transformers' own reader takes even tiles only."""
    weight = random_weight() if weight is None else weight
    rows, columns = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -columns % tile[1], 0, -rows % tile[0]))
    tiles = padded.reshape(padded.shape[0] // tile[0], tile[0], padded.shape[1] // tile[1], tile[1])
    scales = tiles.abs().amax((1, 3)) / 448
    if scale_dtype in ("e8m0", "uint8"):
        scales = torch.exp2(torch.ceil(torch.log2(scales)))
    stored = {
        "float32": scales,
        "bfloat16": scales.bfloat16(),
        "e8m0": scales.to(torch.float8_e8m0fnu),
        "uint8": (torch.log2(scales) + 127).to(torch.uint8),
    }[scale_dtype]
    scales = stored.float() if scale_dtype == "bfloat16" else scales
    spread = scales.repeat_interleave(tile[0], 0)[:rows].repeat_interleave(tile[1], 1)[:, :columns]
    codes = (weight / spread).to(torch.float8_e4m3fn)
    config = {"quant_method": "fp8", "weight_block_size": list(tile)}
    return Sample({"a.weight": codes, "a.weight_scale_inv": stored}, config, codes.float() * spread)


def fp8_even_tiles() -> Sample:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    codes, scales = random_weight(64, 96).to(torch.float8_e4m3fn), torch.rand(4, 3) + 0.1
    values = Fp8Dequantize(None)._dequantize_one(codes, scales, torch.float32)
    tensors = {"a.weight": codes, "a.weight_scale_inv": scales}
    return Sample(tensors, {"quant_method": "fp8", "weight_block_size": [16, 32]}, values)


def fp8_rows() -> Sample:
    weight = random_weight()
    scales = weight.abs().amax(-1, keepdim=True) / 448
    codes = (weight / scales).to(torch.float8_e4m3fn)
    return Sample({"a.weight": codes, "a.weight_scale": scales}, {"quant_method": "fbgemm_fp8"}, codes.float() * scales)


def fp8_whole_tensor() -> Sample:
    codes = random_weight().to(torch.float8_e5m2)
    tensors = {"a.weight": codes, "a.weight_scale_inv": torch.tensor(0.37), "a.activation_scale": torch.tensor(2.0)}
    return Sample(tensors, {"quant_method": "fp8", "weight_block_size": None}, codes.float() * torch.tensor(0.37))


def fp8_fused_experts() -> Sample:
    codes, scales = torch.randn(3, 64, 96).to(torch.float8_e4m3fn), torch.rand(3, 2, 3)
    spread = scales.repeat_interleave(32, 1).repeat_interleave(32, 2)
    tensors = {"experts.gate_up_proj": codes, "experts.gate_up_proj_scale_inv": scales}
    config = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    return Sample(tensors, config, codes.float() * spread, "experts.gate_up_proj")


def deepseek_fp4() -> Sample:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    codes = torch.randint(-128, 128, (64, 48), dtype=torch.int8)
    scales = torch.randint(120, 130, (64, 3), dtype=torch.uint8).view(torch.float8_e8m0fnu)
    values = Fp8Dequantize(None)._dequantize_one(codes, scales, torch.float32)
    config = {"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0", "expert_dtype": "fp4"}
    return Sample({"a.weight": codes, "a.scale": scales}, config, values)


def mxfp4() -> Sample:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks = torch.randint(0, 256, (3, 10, 4, 16), dtype=torch.uint8)
    scales = torch.randint(110, 140, (3, 10, 4), dtype=torch.uint8)
    values = convert_moe_packed_tensors(blocks, scales).float()
    tensors = {"mlp.experts.gate_up_proj_blocks": blocks, "mlp.experts.gate_up_proj_scales": scales}
    return Sample(tensors, {"quant_method": "mxfp4"}, values, "mlp.experts.gate_up_proj")


def packed_words(codes: torch.Tensor, bits: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """int32 words of the codes along the first dimension, the first in the lowest bits; `order`: which of them is."""
    per_word = 32 // bits
    words = torch.zeros(codes.shape[0] // per_word, codes.shape[1], dtype=torch.int64)
    for place, number in enumerate(order or range(per_word)):
        words |= codes[number::per_word].long() << (bits * place)
    return (words & 0xFFFFFFFF).to(torch.uint32).view(torch.int32)


def gptq(bits: int, *, act_order: bool = False, version: str = "gptq", inputs: int = 96, outputs: int = 48) -> Sample:
    """weight = scale * (code - zero), zeros stored less one in the first version."""
    groups, stored_less = inputs // 32, 0 if version == "gptq_v2" else 1
    codes = torch.randint(0, 2**bits, (inputs, outputs))
    zeros = torch.randint(stored_less, 2**bits, (groups, outputs))
    scales = torch.rand(groups, outputs).half()
    group_of = torch.arange(inputs) // 32
    if act_order:
        group_of = group_of[torch.randperm(inputs)]
    tensors = {
        "a.qweight": packed_words(codes, bits),
        "a.qzeros": packed_words((zeros - stored_less).T, bits).T.contiguous(),
        "a.scales": scales,
        "a.g_idx": group_of.int(),
    }
    config = {"quant_method": "gptq", "bits": bits, "group_size": 32, "checkpoint_format": version}
    values = (scales.float()[group_of] * (codes - zeros[group_of])).T.contiguous()
    return Sample(tensors, config, values)


def awq(inputs: int = 96, outputs: int = 48) -> Sample:
    order, groups = (0, 2, 4, 6, 1, 3, 5, 7), inputs // 32
    codes, zeros = torch.randint(0, 16, (inputs, outputs)), torch.randint(0, 16, (groups, outputs))
    scales, group_of = torch.rand(groups, outputs).half(), torch.arange(inputs) // 32
    tensors = {
        "a.qweight": packed_words(codes.T, 4, order).T.contiguous(),
        "a.qzeros": packed_words(zeros.T, 4, order).T.contiguous(),
        "a.scales": scales,
    }
    config = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
    values = (scales.float()[group_of] * (codes - zeros[group_of])).T.contiguous()
    return Sample(tensors, config, values)


def compressed(
    stored_as: str,
    scales: torch.Tensor,
    *,
    zeros: torch.Tensor | None = None,
    whole: torch.Tensor | None = None,
    tolerance: float = 0.0,
    **arguments: Any,
) -> Sample:
    """Compressed and decompressed by compressed-tensors itself."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    args = QuantizationArgs(**arguments)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(stored_as)
    state = {"weight": random_weight(), "weight_scale": scales}
    state |= {"weight_zero_point": zeros} if zeros is not None else {}
    state |= {"weight_global_scale": whole} if whole is not None else {}
    packed = compressor.compress(state, scheme)
    values = compressor.decompress(packed, scheme)["weight"].float()
    config = {
        "quant_method": "compressed-tensors",
        "format": stored_as,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": args.model_dump(mode="json")}},
    }
    return Sample({f"a.{key}": value for key, value in packed.items()}, config, values, tolerance=tolerance)


def by_row() -> torch.Tensor:
    return random_weight().abs().amax(-1, keepdim=True) / 127


def by_group(size: int) -> torch.Tensor:
    return random_weight().reshape(ROWS, -1, size).abs().amax(-1) / 7


def modelopt_nvfp4() -> Sample:
    packed = torch.randint(0, 256, (ROWS, COLUMNS // 2), dtype=torch.uint8)
    scales, whole = torch.rand(ROWS, COLUMNS // 16).to(torch.float8_e4m3fn), torch.tensor(0.013)
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    codes = torch.stack([packed & 15, packed >> 4], -1).reshape(ROWS, COLUMNS).long()
    values = table[codes] * (scales.float() * whole).repeat_interleave(16, 1)
    tensors = {"a.weight": packed, "a.weight_scale": scales, "a.weight_scale_2": whole, "a.input_scale": torch.ones(())}
    return Sample(tensors, {"quant_method": "modelopt", "quant_algo": "NVFP4"}, values)


SAMPLES: dict[str, Callable[[], Sample]] = {
    "nf4": lambda: bitsandbytes_4bit("nf4", nested=False),
    "nf4 double": lambda: bitsandbytes_4bit("nf4", nested=True),
    "fp4 double": lambda: bitsandbytes_4bit("fp4", nested=True),
    "nf4 in elements of bfloat16": lambda: bitsandbytes_4bit("nf4", nested=True, storage=torch.bfloat16),
    "nf4 in elements of float32": lambda: bitsandbytes_4bit("nf4", nested=False, storage=torch.float32),
    "int8 rows": bitsandbytes_int8,
    "FP8 tiles": lambda: fp8("float32"),
    "FP8 tiles, bfloat16 scales": lambda: fp8("bfloat16"),
    "FP8 tiles, E8M0 scales": lambda: fp8("e8m0"),
    "MXFP8": lambda: fp8("uint8", (1, 32)),
    "FP8 even tiles": fp8_even_tiles,
    "FP8 rows": fp8_rows,
    "FP8 tensor": fp8_whole_tensor,
    "FP8 experts": fp8_fused_experts,
    "FP4 in int8": deepseek_fp4,
    "MXFP4": mxfp4,
    "GPTQ 2": lambda: gptq(2),
    "GPTQ 4": lambda: gptq(4),
    "GPTQ 8": lambda: gptq(8),
    "GPTQ 4, columns by activation": lambda: gptq(4, act_order=True),
    "GPTQ 4, version 2": lambda: gptq(4, version="gptq_v2"),
    "AWQ": awq,
    "packed int4": lambda: compressed(
        "pack-quantized", by_group(32), num_bits=4, type="int", strategy="group", group_size=32
    ),
    "packed int4 with zero points": lambda: compressed(
        "pack-quantized",
        by_group(32),
        zeros=torch.randint(-8, 8, (ROWS, COLUMNS // 32), dtype=torch.int8),
        num_bits=4,
        type="int",
        strategy="group",
        group_size=32,
        symmetric=False,
    ),
    "packed int8": lambda: compressed("pack-quantized", by_row(), num_bits=8, type="int", strategy="channel"),
    "int8": lambda: compressed("int-quantized", by_row(), num_bits=8, type="int", strategy="channel"),
    "int8 with zero points": lambda: compressed(
        "int-quantized",
        by_row(),
        zeros=torch.randint(-8, 8, (ROWS, 1), dtype=torch.int8),
        num_bits=8,
        type="int",
        strategy="channel",
        symmetric=False,
    ),
    "compressed FP8": lambda: compressed(
        "float-quantized", torch.tensor([0.01]), num_bits=8, type="float", strategy="tensor"
    ),
    "compressed FP8 tiles": lambda: compressed(
        "float-quantized",
        torch.rand(2, 2) + 0.1,
        num_bits=8,
        type="float",
        strategy="block",
        block_structure=[64, 128],
    ),
    "NVFP4": lambda: compressed(  # its own reader rounds scales to bfloat16
        "nvfp4-pack-quantized",
        by_group(16) * 40,
        whole=torch.tensor([37.3]),
        num_bits=4,
        type="float",
        strategy="tensor_group",
        group_size=16,
        tolerance=2**-7,
    ),
    "compressed MXFP4": lambda: compressed(
        "mxfp4-pack-quantized",
        torch.exp2(torch.randint(-3, 3, (ROWS, COLUMNS // 32))),
        num_bits=4,
        type="float",
        strategy="group",
        group_size=32,
    ),
    "Model Optimizer NVFP4": modelopt_nvfp4,
}
