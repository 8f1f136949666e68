"""Which format a checkpoint is quantized in, and the checkpoint with its weights decoded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.checkpoint import Checkpoint, TensorInfo
from weightsmith.checkpoint.dtypes import FLOAT8
from weightsmith.checkpoint.views.quantized.awq import find_awq
from weightsmith.checkpoint.views.quantized.bitsandbytes import find_bitsandbytes
from weightsmith.checkpoint.views.quantized.compressed_tensors import find_compressed_tensors
from weightsmith.checkpoint.views.quantized.decoded import Converted, DecodedCheckpoint, QuantizedWeights
from weightsmith.checkpoint.views.quantized.fp8 import find_fp8, scales_of
from weightsmith.checkpoint.views.quantized.gptq import find_gptq
from weightsmith.checkpoint.views.quantized.modelopt import find_modelopt
from weightsmith.checkpoint.views.quantized.mxfp4 import find_mxfp4
from weightsmith.errors import CheckpointError
from weightsmith.files.inputs.read_input import read_json

Finder = Callable[[Checkpoint, Mapping[str, Any], Path], QuantizedWeights]

# quant_method -> its reader
_FORMATS: dict[str, Finder] = {
    "awq": find_awq,
    "bitsandbytes": find_bitsandbytes,
    "compressed-tensors": find_compressed_tensors,
    "fbgemm_fp8": find_fp8,
    "fp8": find_fp8,
    "gptq": find_gptq,
    "modelopt": find_modelopt,
    "mxfp4": find_mxfp4,
    "mxfp8": find_fp8,
}
DECODED = "FP8, MXFP8, MXFP4, NVFP4, bitsandbytes, GPTQ, AWQ, compressed-tensors and GGUF"
# Beside config.json, before transformers kept it there.
_OWN_FILES = (("quantize_config.json", "gptq"), ("quant_config.json", "awq"), ("hf_quant_config.json", "modelopt"))
# What quantized layers keep of activations and of the key-value cache.
_ACTIVATIONS = re.compile(
    r".*[._](input_scale|input_scale_inv|output_scale|activation_scale|activation_scale_inv|input_scale_ub"
    r"|input_global_scale|input_zero_point|output_zero_point|[qkv]_scale|kv_scale|[qkv]_zero_point"
    r"|(input|output)_activation_scale)"
)


def decode_quantized(
    source: Checkpoint, config: Mapping[str, Any], folder: Path
) -> tuple[Checkpoint, str | None, dict[str, str]]:
    """(`source` with its quantized weights decoded, what they are; None where nothing is quantized, tensors that are
    left out -> why). Raises CheckpointError for a format that is not decoded."""
    settings, path = _settings(config, folder)
    method = _method(settings, path) if settings is not None else _method_by_names(source.tensors, path)
    if method is None:
        return _plain_float8(source)
    weights = _FORMATS[method](source, settings or {}, path)
    activations = [n for n in source.tensors if _ACTIVATIONS.fullmatch(n) and n not in weights.parts]
    unused = sorted({*weights.unused, *activations})
    left_out = dict.fromkeys(unused, "quantization parameter: scales of activations, which no weight needs")
    if not weights.decoders:
        return DecodedCheckpoint(source, {}, unused), None, left_out
    return DecodedCheckpoint(source, weights.decoders, weights.parts | set(unused)), weights.title, left_out


def _plain_float8(source: Checkpoint) -> tuple[Checkpoint, str | None, dict[str, str]]:
    """8-bit floats without scales, where nothing says that there should be any: the dtype that the weights were saved
    in."""
    names = [name for name, info in source.tensors.items() if info.dtype in FLOAT8]
    if not names:
        return source, None, {}
    decoders = {name: Converted(source, name) for name in names}
    return DecodedCheckpoint(source, decoders, names), "FP8 without scales", {}


def _settings(config: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any] | None, Path]:
    """(how the model says that it is quantized, the file that says it)."""
    path = folder / "config.json"
    parts = [config, *(value for key, value in config.items() if key.endswith("_config") and isinstance(value, dict))]
    for part in parts:
        for key in ("quantization_config", "compression_config"):
            if isinstance(part.get(key), dict):
                return part[key], path
            if part.get(key) is not None:
                raise CheckpointError(
                    f"{path}: {key} is {part[key]!r:.80}, not an object; download it again", path=path
                )
    for name, method in _OWN_FILES:
        if (folder / name).is_file():
            return {"quant_method": method} | _read(folder / name), folder / name
    return None, path


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    nested = content.get("quantization")
    return nested if isinstance(nested, dict) else content


def _method(settings: Mapping[str, Any], path: Path) -> str:
    method = settings.get("quant_method")
    if method is None:
        if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
            method = "bitsandbytes"  # as transformers wrote it before there were others
        elif "config_groups" in settings:
            method = "compressed-tensors"
        elif "quant_algo" in settings:
            method = "modelopt"
    if method is None and {"bits", "group_size"} <= settings.keys():
        method = "MLX"  # which names none
    if method is None:
        raise CheckpointError(
            f"{path}: its quantization_config has no quant_method, so how the weights are packed is unknown; download "
            "it again, or take the model it was made from",
            path=path,
        )
    name = str(method)
    method = name.lower().removesuffix("_4bit").removesuffix("_8bit")
    if method not in _FORMATS:
        raise CheckpointError(
            f"{path}: the model is quantized by {name!r} (quant_method), which is not decoded. Decoded are "
            f"{DECODED}. "
            "Take the model it was made from, or dequantize it with the library that wrote it",
            path=path,
        )
    return method


def _method_by_names(tensors: Mapping[str, TensorInfo], path: Path) -> str | None:
    """The format by the names of its tensors, where no configuration tells. Raises CheckpointError where they do not
    tell enough."""
    for name, info in tensors.items():
        if ".quant_state.bitsandbytes__" in name or (name.endswith(".SCB") and info.is_float):
            return "bitsandbytes"
        if name.endswith("_blocks") and f"{name.removesuffix('_blocks')}_scales" in tensors:
            return "mxfp4"
        if info.dtype in FLOAT8 and scales_of(name, tensors):
            return "fp8"
        if name.endswith((".qweight", ".weight_packed")):
            raise CheckpointError(
                f"{path}: tensor {name!r} is a packed weight, and no quantization_config says how it is packed; "
                "download "
                "config.json (or quantize_config.json) again",
                path=path,
            )
    return None
