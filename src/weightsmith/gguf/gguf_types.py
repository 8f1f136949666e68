"""The types of GGUF files: how large a model is in each, and what each is good for."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from weightsmith.gguf.conversion.conversion import PLAIN_TYPES, Conversion
from weightsmith.gguf.conversion.export_source import ExportJob
from weightsmith.gguf.quantization.quantizer import dry_runs
from weightsmith.llama_cpp import quantization_types

_ADVICE = {
    "f32": "exact; for inspection only",
    "f16": "exact for float16 weights; the usual source of quantized files",
    "bf16": "exact for bfloat16 weights; slow on processors without it",
    "q8_0": "practically f16",
    "q6_k": "very near to f16",
    "q5_k_m": "a small loss",
    "q5_k_s": "a small loss",
    "q4_k_m": "the usual choice",
    "q4_k_s": "a little smaller, a little worse",
    "iq4_xs": "smaller than q4_k_s and about as good; wants an importance matrix",
    "iq4_nl": "as iq4_xs, for rows that do not divide by 256",
    "q3_k_l": "a clear loss",
    "q3_k_m": "a clear loss; wants an importance matrix",
    "q3_k_s": "a clear loss; wants an importance matrix",
    "q2_k": "large losses; wants an importance matrix",
    "q2_k_s": "large losses; needs an importance matrix",
    "mxfp4_moe": "for mixtures of experts that were trained in it (gpt-oss)",
    "nvfp4": "for models that were trained in it",
    "tq1_0": "for ternary models (BitNet)",
    "tq2_0": "for ternary models (BitNet), faster",
    "q1_0": "for models that were trained with one bit",
    "q2_0": "for models that were trained with two bits",
}
_ADVICE |= dict.fromkeys(
    ("q4_0", "q4_1", "q5_0", "q5_1"), "older; the fallback of other types for rows that do not divide by 256"
)
_ADVICE |= dict.fromkeys(
    ("iq3_m", "iq3_s", "iq3_xs", "iq3_xxs"), "better than q3_k of its size, slower; wants an importance matrix"
)
_ADVICE |= dict.fromkeys(
    ("iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s"), "for large models only; needs an importance matrix"
)


@dataclass(frozen=True)
class TypeSize:
    """`bytes` of the model's tensors; `advice` in a few words."""

    type: str
    bits_per_weight: float
    bytes: int
    advice: str


def list_types(model: str | None = None) -> list[TypeSize]:
    """Every type that the installed llama.cpp has, largest first, with what `model` would take in it; without one, a
    Llama 3 of 8 B parameters. Nothing but headers is read. Raises ExportError and what opening the model raises."""
    types = [*PLAIN_TYPES, *(gguf_type for gguf_type in quantization_types() if gguf_type not in PLAIN_TYPES)]
    if model is None:
        with tempfile.TemporaryDirectory() as folder:
            plan = Path(folder) / "plan.gguf"
            _write_llama_8b(plan)
            planned = dry_runs(plan, types)
    else:
        with Conversion(ExportJob(model=model), "f16", name="model", threads=1) as conversion:
            planned = dry_runs(conversion.plan, types)
    rows = [
        TypeSize(gguf_type, planned_file.bits_per_weight, planned_file.bytes, _ADVICE.get(gguf_type, ""))
        for gguf_type, planned_file in planned.items()
    ]
    return sorted(rows, key=lambda row: -row.bytes)


def _write_llama_8b(path: Path) -> None:
    """Names and shapes of Llama 3 8B (its config.json), with a hole where the weights would be."""
    import numpy as np
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_block_count(32)
    writer.add_context_length(8192)
    writer.add_embedding_length(4096)
    writer.add_feed_forward_length(14336)
    writer.add_head_count(32)
    writer.add_head_count_kv(8)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(128256)
    shapes = {"token_embd": (128256, 4096), "output": (128256, 4096), "output_norm": (4096,)}
    layer = {
        "attn_q": (4096, 4096),
        "attn_k": (1024, 4096),
        "attn_v": (1024, 4096),
        "attn_output": (4096, 4096),
        "attn_norm": (4096,),
        "ffn_gate": (14336, 4096),
        "ffn_up": (14336, 4096),
        "ffn_down": (4096, 14336),
        "ffn_norm": (4096,),
    }
    shapes |= {f"blk.{number}.{name}": shape for number in range(32) for name, shape in layer.items()}
    size = 0
    for name, shape in shapes.items():
        dtype = np.dtype(np.float16 if len(shape) == 2 else np.float32)
        nbytes = int(np.prod(shape)) * dtype.itemsize
        writer.add_tensor_info(f"{name}.weight", shape, dtype, nbytes)
        size += writer.ggml_pad(nbytes, writer.data_alignment)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, writer.ggml_pad(path.stat().st_size, writer.data_alignment) + size)
