"""`weightsmith unify` and `inspect` on full-size Phi-2 (random weights, 2.78 B parameters, fp16) in its `phi-msft` layout.

    make bench-unify      # needs 30 GB of disk

`unify` is held against `cp` of the same files, in turn, ROUNDS times each, every run a process of its own: wall clock and
highest resident set. Then `inspect` of three such models. The page cache is warm: every file was just written or read.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from importlib import metadata
from pathlib import Path

import torch
from merge_against_mergekit import measure, processor

from weightsmith.checkpoint.shard_writer import ShardWriter
from weightsmith.checkpoint.tensor import TensorInfo
from weightsmith.report.facts import machine

FOLDER = Path("build/bench-unify")
ROUNDS = 3
HIDDEN, INNER, LAYERS, VOCABULARY = 2560, 10240, 32, 51200
CONFIG = {
    "model_type": "phi-msft", "architectures": ["PhiForCausalLM"], "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 32,
    "n_head_kv": None, "n_inner": None, "n_positions": 2048, "rotary_dim": 32, "activation_function": "gelu_new",
    "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.1, "layer_norm_epsilon": 1e-5, "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "auto_map": {"AutoConfig": "configuration_phi.PhiConfig", "AutoModelForCausalLM": "modeling_phi.PhiForCausalLM"},
}  # fmt: skip


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
            elapsed, peak = measure(command)
            seconds[name].append(elapsed)
            memory[name].append(peak / 1e9)
    shutil.rmtree(out)
    print(f"{processor()}; {machine()}, safetensors {metadata.version('safetensors')}\n")
    size = sum(path.stat().st_size for path in source.iterdir())
    print(f"Phi-2 in phi-msft layout, {size / 1e9:.2f} GB, medians of {ROUNDS} (lowest to highest)\n")
    print("| | time, s | peak memory, GB |")
    print("| --- | ---: | ---: |")
    for name in commands:
        spread = f"{statistics.median(seconds[name]):.1f} ({min(seconds[name]):.1f} to {max(seconds[name]):.1f})"
        print(f"| {name} | {spread} | {statistics.median(memory[name]):.2f} |")
    ratio = statistics.median(seconds["weightsmith unify"]) / statistics.median(seconds["cp"])
    print(f"| unify / cp | {ratio:.2f} | |")
    inspect = [sys.executable, "-m", "weightsmith", "inspect", *(str(FOLDER / name) for name in names)]
    runs = [measure(inspect) for _ in range(ROUNDS)]
    print(
        f"| weightsmith inspect, three of them | {statistics.median(t for t, _ in runs):.2f} | {runs[0][1] / 1e9:.2f} |"
    )


def make(folder: Path, seed: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shapes: dict[str, tuple[int, ...]] = {"transformer.embd.wte.weight": (VOCABULARY, HIDDEN)}
    linear = {"mixer.Wqkv": (3 * HIDDEN, HIDDEN), "mixer.out_proj": (HIDDEN, HIDDEN), "mlp.fc1": (INNER, HIDDEN), "mlp.fc2": (HIDDEN, INNER)}  # fmt: skip
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
            writer.write(name, start, block.half())
    writer.close(sync=False)
    (folder / "config.json").write_text(json.dumps(CONFIG))


if __name__ == "__main__":
    main()
