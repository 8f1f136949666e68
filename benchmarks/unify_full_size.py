"""`weightsmith unify` and `inspect` on full-size Phi-2 (random weights, 2.78 B parameters, fp16) in its `phi-msft`
layout.

    make bench-unify      # needs 30 GB of disk

`unify` is held against `cp` of the same files, in turn, ROUNDS times each, every run a process of its own: wall clock
and highest resident set. Then `inspect` of three such models, and of one with 70 B parameters whose files are a header
and a hole. The page cache is warm: every file was just written or read.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import sys
from importlib import metadata
from pathlib import Path

import torch
from measured import measure, processor

from weightsmith.checkpoint.checkpoint import TensorInfo
from weightsmith.checkpoint.dtypes import as_array
from weightsmith.checkpoint.shard_writer import ShardWriter
from weightsmith.machine import describe_machine

FOLDER = Path("build/bench-unify")
ROUNDS = 3
HIDDEN, INNER, LAYERS, VOCABULARY = 2560, 10240, 32, 51200
CONFIG = {
    "model_type": "phi-msft",
    "architectures": ["PhiForCausalLM"],
    "n_embd": HIDDEN,
    "n_layer": LAYERS,
    "n_head": 32,
    "n_head_kv": None,
    "n_inner": None,
    "n_positions": 2048,
    "rotary_dim": 32,
    "activation_function": "gelu_new",
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "auto_map": {"AutoConfig": "configuration_phi.PhiConfig", "AutoModelForCausalLM": "modeling_phi.PhiForCausalLM"},
}


def main() -> None:
    names = ("base", "orange", "dolphin")
    for seed, name in enumerate(names):
        if not (FOLDER / name / "config.json").exists():
            make(FOLDER / name, seed)
    source, out = FOLDER / "base", FOLDER / "out"
    unify = [sys.executable, "-m", "weightsmith", "unify", str(source), str(out), "--quiet"]
    commands = {
        "cp": [str(shutil.which("cp")), "-r", "--reflink=never", str(source), str(out)],
        "weightsmith unify": unify,
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    memory: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            shutil.rmtree(out, ignore_errors=True)
            measured = measure(command)
            seconds[name].append(measured.wall)
            memory[name].append(measured.peak / 1e9)
    shutil.rmtree(out)
    print(f"{processor()}; {describe_machine()}, safetensors {metadata.version('safetensors')}\n")
    size = sum(path.stat().st_size for path in source.iterdir())
    print(f"Phi-2 in phi-msft layout, {size / 1e9:.2f} GB, medians of {ROUNDS} (lowest to highest)\n")
    print("| | time, s | peak memory, GB |")
    print("| --- | ---: | ---: |")
    for name in commands:
        spread = f"{statistics.median(seconds[name]):.1f} ({min(seconds[name]):.1f} to {max(seconds[name]):.1f})"
        print(f"| {name} | {spread} | {statistics.median(memory[name]):.2f} |")
    ratio = statistics.median(seconds["weightsmith unify"]) / statistics.median(seconds["cp"])
    print(f"| unify / cp | {ratio:.2f} | |")
    if not (FOLDER / "large" / "config.json").exists():
        make_large(FOLDER / "large")
    for what, folders in (("three of them", names), ("one of 70 B parameters", ("large",))):
        inspect = [sys.executable, "-m", "weightsmith", "inspect", *(str(FOLDER / name) for name in folders)]
        runs = [measure(inspect) for _ in range(ROUNDS)]
        elapsed, peak = statistics.median(r.wall for r in runs), statistics.median(r.peak for r in runs)
        print(f"| weightsmith inspect, {what} | {elapsed:.2f} | {peak / 1e9:.2f} |")


def make_large(folder: Path) -> None:
    """Llama 70 B in bfloat16, of which only the headers are written."""
    folder.mkdir(parents=True)
    hidden, inner, layers, vocabulary = 8192, 28672, 80, 128256
    shapes = {"model.embed_tokens": [vocabulary, hidden], "lm_head": [vocabulary, hidden], "model.norm": [hidden]}
    for n in range(layers):
        here = f"model.layers.{n}"
        shapes |= {f"{here}.{norm}": [hidden] for norm in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{here}.self_attn.{p}_proj": [hidden if p in "qo" else 1024, hidden] for p in "qkvo"}
        shapes |= {
            f"{here}.mlp.{p}_proj": [inner, hidden] if p != "down" else [hidden, inner] for p in ("gate", "up", "down")
        }
    names, weight_map, count = list(shapes), {}, 30
    for number in range(count):
        header, at = {}, 0
        for name in names[number::count]:
            size = 2 * math.prod(shapes[name])
            header[f"{name}.weight"] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(header).encode()
        file = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            out.truncate(8 + len(text) + at)
        weight_map |= dict.fromkeys(header, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": vocabulary,
    }
    (folder / "config.json").write_text(json.dumps(config))


def make(folder: Path, seed: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shapes: dict[str, tuple[int, ...]] = {"transformer.embd.wte.weight": (VOCABULARY, HIDDEN)}
    linear = {
        "mixer.Wqkv": (3 * HIDDEN, HIDDEN),
        "mixer.out_proj": (HIDDEN, HIDDEN),
        "mlp.fc1": (INNER, HIDDEN),
        "mlp.fc2": (HIDDEN, INNER),
    }
    modules = {f"transformer.h.{n}.{name}": shape for n in range(LAYERS) for name, shape in linear.items()}
    modules |= {"lm_head.linear": (VOCABULARY, HIDDEN)}
    norms = [f"transformer.h.{n}.ln" for n in range(LAYERS)] + ["lm_head.ln"]
    for name, shape in modules.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    shapes |= {f"{name}.{kind}": (HIDDEN,) for name in norms for kind in ("weight", "bias")}
    writer = ShardWriter(folder, {name: TensorInfo(shape, "F16") for name, shape in shapes.items()}, 5_000_000_000)
    generator = torch.Generator().manual_seed(seed)
    for name, shape in shapes.items():
        count = torch.Size(shape).numel()
        for start in range(0, count, 1 << 24):
            block = torch.randn(min(1 << 24, count - start), generator=generator) * 0.02
            writer.write(name, start, as_array(block.half()))
    writer.close(sync=False)
    (folder / "config.json").write_text(json.dumps(CONFIG))


if __name__ == "__main__":
    main()
