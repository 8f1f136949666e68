"""`weightsmith merge` and mergekit side by side on the demo's models (4 x 135 M parameters, float32).

    make bench-demo

The base and its three specialists are written once as safetensors folders, then both programs run the same recipe as
processes of their own, in turn, ROUNDS times each. Time is wall clock of the whole process, memory its highest resident
set (mergekit maps its input files, so pages of theirs that it touched count; ours are read, and do not).
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import sysconfig
from pathlib import Path

import torch
from measured import measure, where
from safetensors import safe_open

import weightsmith
from weightsmith.demo.run_demo import PACKAGE, base_model

FOLDER = Path("build/bench")
SKILLS = ("dates", "records", "commands")
ROUNDS = 3
SCRIPTS = Path(sysconfig.get_path("scripts"))


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    make_inputs()
    print(f"{where()}\n")
    print("| method | | time, s | peak memory, GB | largest relative difference |")
    print("| --- | --- | ---: | ---: | ---: |")
    for method, recipe in recipes().items():
        path = FOLDER / f"{method}.yml"
        path.write_text(json.dumps(recipe))
        compare(method, path)


def make_inputs() -> None:
    for name in ("base", *SKILLS):
        if not (FOLDER / name).exists():
            reference = str(base_model()) + ("" if name == "base" else f"+{PACKAGE / 'adapters' / name}")
            recipe = FOLDER / "input.yml"
            content = {"merge_method": "passthrough", "models": [{"model": reference}], "dtype": "float32"}
            recipe.write_text(json.dumps(content))
            weightsmith.merge(recipe, FOLDER / name)


def recipes() -> dict[str, dict]:
    def models(**parameters: float) -> list[dict]:
        return [{"model": str(FOLDER / skill), "parameters": parameters} for skill in SKILLS]

    base = {"base_model": str(FOLDER / "base"), "dtype": "float32"}
    pair = [{"model": str(FOLDER / name)} for name in ("base", "dates")]
    return {
        "linear": {"merge_method": "linear", "models": models(weight=1.0), "dtype": "float32"},
        "task_arithmetic": {"merge_method": "task_arithmetic", "models": models(weight=1.0)} | base,
        "ties": {"merge_method": "ties", "models": models(weight=1.0, density=0.5)} | base,
        "slerp": {"merge_method": "slerp", "models": pair, "parameters": {"t": 0.5}} | base,
    }


def compare(method: str, recipe: Path) -> None:
    ours, theirs = FOLDER / "ours", FOLDER / "theirs"
    commands = {
        "weightsmith": [sys.executable, "-m", "weightsmith", "merge", str(recipe), str(ours), "--quiet"],
        "mergekit": [str(SCRIPTS / "mergekit-yaml"), str(recipe), str(theirs), "--no-copy-tokenizer", "--quiet"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    memory: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            shutil.rmtree(ours if name == "weightsmith" else theirs, ignore_errors=True)
            measured = measure(command)
            seconds[name].append(measured.wall)
            memory[name].append(measured.peak / 1e9)
    apart = difference(ours, theirs)
    for name in commands:
        spread = f"{statistics.median(seconds[name]):.1f} ({min(seconds[name]):.1f} to {max(seconds[name]):.1f})"
        print(f"| {method} | {name} | {spread} | {statistics.median(memory[name]):.2f} | |")
    times, peaks = ({n: statistics.median(v) for n, v in values.items()} for values in (seconds, memory))
    print(
        f"| {method} | mergekit / weightsmith | {times['mergekit'] / times['weightsmith']:.2f} "
        f"| {peaks['mergekit'] / peaks['weightsmith']:.2f} | {apart} |",
        flush=True,
    )


def difference(ours: Path, theirs: Path) -> str:
    """Largest |a - b| relative to |b|, or to a tenth of the tensor's largest element where that is more."""
    worst, far = 0.0, 0
    with safe_open(ours / "model.safetensors", "pt") as a:
        for shard in theirs.glob("*.safetensors"):
            with safe_open(shard, "pt") as b:
                for name in b.keys():  # noqa: SIM118
                    want = b.get_tensor(name)
                    relative = (a.get_tensor(name) - want).abs() / want.abs().clamp(min=want.abs().max() * 0.1)
                    far += int((relative > 1e-6).sum())
                    worst = max(worst, float(torch.where(relative > 1e-6, 0, relative).max()))
    return f"{worst:.1e}" + (f"; {far} elements at a trimming threshold aside" if far else "")


if __name__ == "__main__":
    main()
