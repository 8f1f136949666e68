"""`weightsmith merge` and mergekit side by side on a synthetic Phi-2 (fp16): base normal 0.02, task vectors a tenth of it.

    make bench-merge                                  # 4 layers, every method, about 10 minutes
    python benchmarks/merge_synthetic.py 32 ties      # full size, one method; mergekit takes its time

The recipe is `density 0.5/0.5, weight 0.5/0.3, normalize`. Both programs run as processes of their own, in turn, on the same
files, the page cache warm. `floor` reads the inputs once and writes as many bytes as the output has, with fsync.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import torch
from merge_against_mergekit import measure, processor

from weightsmith.checkpoint.shard_writer import ShardWriter
from weightsmith.checkpoint.tensor import TensorInfo, as_array
from weightsmith.report.facts import machine

FOLDER = Path("build/bench-merge")
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
ROUNDS = int(os.environ.get("ROUNDS", "1"))
HIDDEN, INNER, VOCABULARY = 2560, 10240, 51200
SCRIPTS = Path(sysconfig.get_path("scripts"))
# Reads the files it is given, in chunks, and writes as much as the first of them has.
FLOOR = """
import os, sys
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
buffer = bytearray(1 << 20)
for number, folder in enumerate(sys.argv[2:]):
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            file = os.open(os.path.join(folder, name), os.O_RDONLY)
            while count := os.readv(file, [buffer]):
                if number == 0:
                    os.write(out, memoryview(buffer)[:count])
os.fsync(out)
"""


def main() -> None:
    layers = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    methods = sys.argv[2:] or METHODS
    folder = FOLDER / str(layers)
    for seed, name in enumerate(("base", "one", "two")):
        if not (folder / name / "config.json").exists():
            make(folder / name, layers, seed)
    size = sum(path.stat().st_size for path in (folder / "base").iterdir())
    print(f"{processor()}; {machine()}, mergekit {metadata.version('mergekit')}\n")
    print(f"Phi-2 with {layers} layers, fp16, {size / 1e9:.2f} GB each; base and two fine-tunes; {ROUNDS} round(s)\n")
    print(
        "| method | mergekit, s | weightsmith, s | ratio | mergekit, GB | weightsmith, GB | floor, s | weightsmith / floor |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for method in methods:
        recipe = folder / f"{method}.yml"
        models = write_recipe(recipe, folder, method)
        ours, theirs, floor = folder / "ours", folder / "theirs", folder / "floor"
        commands = {
            "floor": [sys.executable, "-S", "-c", FLOOR, str(floor), *(str(folder / name) for name in models)],
            "weightsmith": [sys.executable, "-m", "weightsmith", "merge", str(recipe), str(ours), "--quiet"],
            "mergekit": [str(SCRIPTS / "mergekit-yaml"), str(recipe), str(theirs), "--no-copy-tokenizer", "--quiet"],
        }
        found: dict[str, list[tuple[float, int]]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                for path in (ours, theirs):
                    shutil.rmtree(path, ignore_errors=True)
                found[name].append(measure(command))
        times = {name: statistics.median(t for t, _ in runs) for name, runs in found.items()}
        peaks = {name: statistics.median(m for _, m in runs) / 1e9 for name, runs in found.items()}
        print(
            f"| {method} | {times['mergekit']:.1f} | {times['weightsmith']:.1f} | "
            f"{times['mergekit'] / times['weightsmith']:.1f} | {peaks['mergekit']:.2f} | {peaks['weightsmith']:.2f} | "
            f"{times['floor']:.1f} | {times['weightsmith'] / times['floor']:.1f} |",
            flush=True,
        )
    for path in (folder / "ours", folder / "theirs"):
        shutil.rmtree(path, ignore_errors=True)
    (folder / "floor").unlink(missing_ok=True)


def write_recipe(path: Path, folder: Path, method: str) -> list[str]:
    """Returns the models that are read."""
    base = {"base_model": str(folder / "base"), "dtype": "float16", "merge_method": method}
    names = ["one", "two"]
    if method == "slerp":
        content = base | {"models": [{"model": str(folder / n)} for n in ("base", "one")], "parameters": {"t": 0.4}}
        names = ["base", "one"]
    elif method == "model_stock":
        content, names = base | {"models": [{"model": str(folder / n)} for n in names]}, ["base", *names]
    else:
        weights = {"one": 0.5, "two": 0.3}
        entries = [{"model": str(folder / n), "parameters": {"weight": weights[n], "density": 0.5}} for n in names]
        content = base | {"models": entries, "parameters": {"normalize": True}}
        if method == "linear":
            content = {"merge_method": method, "dtype": "float16", "models": [
                {"model": str(folder / n), "parameters": {"weight": weights[n]}} for n in names
            ]}  # fmt: skip
        else:
            names = ["base", *names]
    path.write_text(json.dumps(content))
    return names


def make(folder: Path, layers: int, seed: int) -> None:
    """The base is seed 0; each other one is the base plus its own task vector."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    linear = {f"self_attn.{p}_proj": (HIDDEN, HIDDEN) for p in "qkv"} | {
        "self_attn.dense": (HIDDEN, HIDDEN), "mlp.fc1": (INNER, HIDDEN), "mlp.fc2": (HIDDEN, INNER),
    }  # fmt: skip
    modules = {f"model.layers.{n}.{name}": shape for n in range(layers) for name, shape in linear.items()}
    modules |= {"lm_head": (VOCABULARY, HIDDEN)}
    norms = [f"model.layers.{n}.input_layernorm" for n in range(layers)] + ["model.final_layernorm"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for name, shape in modules.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    shapes |= {f"{name}.{kind}": (HIDDEN,) for name in norms for kind in ("weight", "bias")}
    writer = ShardWriter(folder, {name: TensorInfo(shape, "F16") for name, shape in shapes.items()}, 5_000_000_000)
    of_base, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(100 + seed)
    for name, shape in shapes.items():
        count = torch.Size(shape).numel()
        for start in range(0, count, 1 << 24):
            some = min(1 << 24, count - start)
            block = torch.randn(some, generator=of_base) * 0.02
            if seed:
                block += torch.randn(some, generator=own) * 0.002
            writer.write(name, start, as_array(block.half()))
    writer.close(sync=False)
    config = {
        "model_type": "phi", "architectures": ["PhiForCausalLM"], "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": layers, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": VOCABULARY,
        "partial_rotary_factor": 0.4, "max_position_embeddings": 2048, "tie_word_embeddings": False, "dtype": "float16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main()
