"""A Phi-2 of any depth with random weights, fp16: base normal 0.02, two fine-tunes whose task vectors are a tenth of
it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from weightsmith.checkpoint.checkpoint import TensorInfo
from weightsmith.checkpoint.dtypes import as_array
from weightsmith.checkpoint.shard_writer import ShardWriter

HIDDEN, INNER, VOCABULARY = 2560, 10240, 51200
METHODS = (
    "ties",
    "breadcrumbs",
    "dare_linear",
    "dare_ties",
    "della",
    "linear",
    "slerp",
    "model_stock",
    "task_arithmetic",
)
MATRICES = ("tsv_m", "iso_c")  # methods of matrices
_AT_ONCE = 1 << 24  # elements


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    linear = {f"self_attn.{p}_proj": (HIDDEN, HIDDEN) for p in "qkv"} | {
        "self_attn.dense": (HIDDEN, HIDDEN),
        "mlp.fc1": (INNER, HIDDEN),
        "mlp.fc2": (HIDDEN, INNER),
    }
    modules = {f"model.layers.{n}.{name}": shape for n in range(layers) for name, shape in linear.items()}
    modules |= {"lm_head": (VOCABULARY, HIDDEN)}
    norms = [f"model.layers.{n}.input_layernorm" for n in range(layers)] + ["model.final_layernorm"]
    shapes_by_name: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for name, shape in modules.items():
        shapes_by_name |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes_by_name | {f"{name}.{kind}": (HIDDEN,) for name in norms for kind in ("weight", "bias")}


def parameters(layers: int) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes(layers).values())


def make_models(folder: Path, layers: int) -> None:
    """`base`, `one` and `two` in `folder`, unless they are there."""
    for seed, name in enumerate(("base", "one", "two")):
        if not (folder / name / "config.json").exists():
            _make(folder / name, layers, seed)


def _make(folder: Path, layers: int, seed: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model_shapes = shapes(layers)
    writer = ShardWriter(
        folder, {name: TensorInfo(shape, "F16") for name, shape in model_shapes.items()}, 5_000_000_000
    )
    of_base, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(100 + seed)
    for name, shape in model_shapes.items():
        count = torch.Size(shape).numel()
        for start in range(0, count, _AT_ONCE):
            some = min(_AT_ONCE, count - start)
            block = torch.randn(some, generator=of_base) * 0.02
            if seed:
                block += torch.randn(some, generator=own) * 0.002
            writer.write(name, start, as_array(block.half()))
    writer.close(sync=False)
    save_config(folder, layers)


def save_config(folder: Path, layers: int) -> None:
    config = {
        "model_type": "phi",
        "architectures": ["PhiForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": VOCABULARY,
        "partial_rotary_factor": 0.4,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(config))


def write_recipe(folder: Path, method: str) -> tuple[Path, list[Path]]:
    """The recipe's path and the models that it reads: `density 0.5/0.5, weight 0.5/0.3, normalize`."""
    base = {"base_model": str(folder / "base"), "dtype": "float16", "merge_method": method}
    names = ["one", "two"]
    if method == "slerp":
        content = base | {"models": [{"model": str(folder / n)} for n in ("base", "one")], "parameters": {"t": 0.4}}
        names = ["base", "one"]
    elif method == "model_stock" or method in MATRICES:
        content, names = base | {"models": [{"model": str(folder / n)} for n in names]}, ["base", *names]
    elif method == "linear":
        weights = {"one": 0.5, "two": 0.3}
        content = {
            "merge_method": method,
            "dtype": "float16",
            "models": [{"model": str(folder / n), "parameters": {"weight": weights[n]}} for n in names],
        }
    else:
        weights = {"one": 0.5, "two": 0.3}
        entries = [{"model": str(folder / n), "parameters": {"weight": weights[n], "density": 0.5}} for n in names]
        content, names = base | {"models": entries, "parameters": {"normalize": True}}, ["base", *names]
    path = folder / f"{method}.yml"
    path.write_text(json.dumps(content))
    return path, [folder / name for name in names]
