"""Tiny models, good ones, from the standard library alone: what the corpus makes bad ones of."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HIDDEN, HEADS, MLP, LAYERS, VOCABULARY = 16, 2, 24, 2, 40
SPECIAL = ("<|end|>", "<|start|>")
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 38,
    "eos_token_id": 38,
    "hidden_act": "silu",
    "torch_dtype": "float32",
}
TOKENIZER_CONFIG: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": "<|end|>",
    "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
}
Tensor = tuple[str, Sequence[int], bytes]  # dtype, shape, content


def tokenizer() -> dict[str, Any]:
    """A byte-level BPE without merges."""
    vocabulary = {chr(ord("a") + n) if n < 26 else f"t{n}": n for n in range(VOCABULARY - len(SPECIAL))}
    added = [{"id": VOCABULARY - len(SPECIAL) + n, "content": text, "special": True} for n, text in enumerate(SPECIAL)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [entry | flags for entry in added],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {"type": "BPE", "vocab": vocabulary | {text: 38 + n for n, text in enumerate(SPECIAL)}, "merges": []},
    }


def shapes() -> dict[str, tuple[int, ...]]:
    square, tall, wide = (HIDDEN, HIDDEN), (MLP, HIDDEN), (HIDDEN, MLP)
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        front = f"model.layers.{layer}."
        found |= {f"{front}self_attn.{name}_proj.weight": square for name in "qkvo"}
        found |= {f"{front}mlp.gate_proj.weight": tall, f"{front}mlp.up_proj.weight": tall}
        found |= {f"{front}mlp.down_proj.weight": wide}
        found |= {f"{front}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    return found | {"model.norm.weight": (HIDDEN,)}


def numbers(count: int, seed: int) -> bytes:
    chosen = random.Random(seed)
    return array("f", [chosen.uniform(-0.1, 0.1) for _ in range(count)]).tobytes()


def size_of(shape: Sequence[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def weights(seed: int) -> dict[str, Tensor]:
    return {name: ("F32", shape, numbers(size_of(shape), seed + n)) for n, (name, shape) in enumerate(shapes().items())}


def safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    header, body = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(body), len(body) + len(content)]}
        body += content
    return with_header(json.dumps(header).encode(), body)


def with_header(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def write_model(folder: Path, seed: int, **files: bytes | str | None) -> Path:
    """A model's folder. `files`: content by name, dots as double underscores, None for a file that is left out."""
    folder.mkdir(parents=True)
    content: dict[str, bytes | str | None] = {
        "config.json": json.dumps(CONFIG),
        "model.safetensors": safetensors(weights(seed)),
        "tokenizer.json": json.dumps(tokenizer()),
        "tokenizer_config.json": json.dumps(TOKENIZER_CONFIG),
    }
    for name, value in (content | {name.replace("__", "."): value for name, value in files.items()}).items():
        if value is not None:
            (folder / name).write_bytes(value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass"))
    return folder


def write_adapter(folder: Path, config: Any = None, tensors: Mapping[str, Tensor] | None = None) -> Path:
    """A LoRA adapter of rank 2 on the first query projection."""
    front = "base_model.model.model.layers.0.self_attn.q_proj"
    pair: dict[str, Tensor] = {
        f"{front}.lora_A.weight": ("F32", (2, HIDDEN), numbers(2 * HIDDEN, 1)),
        f"{front}.lora_B.weight": ("F32", (HIDDEN, 2), numbers(2 * HIDDEN, 2)),
    }
    folder.mkdir(parents=True)
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings if config is None else config))
    (folder / "adapter_model.safetensors").write_bytes(safetensors(pair if tensors is None else tensors))
    return folder


def recipe(*models: object, method: str = "linear") -> str:
    entries = "".join(f"- {{model: {model}, parameters: {{weight: 0.5}}}}\n" for model in models)
    return f"merge_method: {method}\nmodels:\n{entries}"


# A pickle of protocol 2, as torch.save writes it.


def text(value: str) -> bytes:
    content = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(content)) + content


def integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    content = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def numbers_tuple(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def described(key: str, shape: Sequence[int], strides: Sequence[int], offset: int = 0, count: int = 0) -> bytes:
    """The call that makes a tensor of the storage `key`."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + integer(count) + b"tQ"
    sizes = integer(offset) + numbers_tuple(shape) + numbers_tuple(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + sizes + b"\x89ccollections\nOrderedDict\n)RtR"


def row_strides(shape: Sequence[int]) -> list[int]:
    return [size_of(shape[n + 1 :]) for n in range(len(shape))]


def state_dict(tensors: Mapping[str, bytes]) -> bytes:
    entries = b"".join(text(name) + made for name, made in tensors.items())
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + entries + b"u."


def torch_archive(pickle: bytes, storages: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickle)
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
    return file.getvalue()


def torch_weights(seed: int) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """(name -> the call that makes the tensor, key -> content)."""
    made, storages = {}, {}
    for number, (name, (_, shape, content)) in enumerate(weights(seed).items()):
        made[name] = described(str(number), shape, row_strides(shape), count=size_of(shape))
        storages[str(number)] = content
    return made, storages


# GGUF.

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 5, 6, 7, 8, 9, 10
Value = tuple[int, Any]
_ROW_NAMES = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
_MLP_NAMES = {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}


def gguf_metadata() -> dict[str, Value]:
    tokens = [f"t{number}" for number in range(VOCABULARY)]
    return {
        "general.architecture": (STRING, "llama"),
        "llama.context_length": (UINT32, 64),
        "llama.embedding_length": (UINT32, HIDDEN),
        "llama.block_count": (UINT32, LAYERS),
        "llama.feed_forward_length": (UINT32, MLP),
        "llama.attention.head_count": (UINT32, HEADS),
        "llama.attention.head_count_kv": (UINT32, HEADS),
        "llama.attention.layer_norm_rms_epsilon": (FLOAT32, 1e-5),
        "llama.rope.freq_base": (FLOAT32, 10000.0),
        "llama.rope.dimension_count": (UINT32, HIDDEN // HEADS),
        "tokenizer.ggml.model": (STRING, "gpt2"),
        "tokenizer.ggml.pre": (STRING, "gpt-2"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)),
        "tokenizer.ggml.token_type": (ARRAY, (INT32, [1] * VOCABULARY)),
        "tokenizer.ggml.merges": (ARRAY, (STRING, [])),
        "tokenizer.ggml.eos_token_id": (UINT32, 38),
    }


def gguf_tensors() -> dict[str, tuple[Sequence[int], int, bytes]]:
    """Name -> (dimensions, innermost first; ggml type; content)."""
    found = {}
    for name, (_, shape, content) in weights(3).items():
        found[_gguf_name(name)] = (tuple(reversed(shape)), 0, content)
    return found


def _gguf_name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, *rest, _ = name.split(".")
    module = {**_ROW_NAMES, **_MLP_NAMES}.get(rest[-1]) or {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }[rest[-1]]
    return f"blk.{layer}.{module}.weight"


def gguf_text(value: str) -> bytes:
    content = value.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(content)) + content


def gguf_value(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return gguf_text(value)
    if kind == ARRAY:
        item, values = value
        return struct.pack("<IQ", item, len(values)) + b"".join(gguf_value(item, entry) for entry in values)
    return struct.pack("<" + {UINT32: "I", INT32: "i", FLOAT32: "f", BOOL: "?", UINT64: "Q"}[kind], value)


def gguf(
    metadata: Mapping[str, Value] | None = None,
    tensors: Mapping[str, tuple[Sequence[int], int, bytes]] | None = None,
    *,
    head: bytes | None = None,
    offsets: Mapping[str, int] | None = None,
) -> bytes:
    metadata = gguf_metadata() if metadata is None else metadata
    tensors = gguf_tensors() if tensors is None else tensors
    file = (b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))) if head is None else head
    for key, (kind, value) in metadata.items():
        file += gguf_text(key) + struct.pack("<I", kind) + gguf_value(kind, value)
    body = b""
    for name, (dimensions, kind, content) in tensors.items():
        offset = (offsets or {}).get(name, len(body))
        file += gguf_text(name) + struct.pack("<I", len(dimensions))
        file += b"".join(struct.pack("<Q", length) for length in dimensions) + struct.pack("<IQ", kind, offset)
        body += content + b"\0" * (-len(content) % 32)
    return file + b"\0" * (-len(file) % 32) + body
