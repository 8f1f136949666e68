"""How long is the first merge in a fresh environment, which compiles its kernels?

    make bench-first

Three tiny Llamas in bfloat16. For each method three times in turn: with no kernel in the cache; after a merge by `ties`
alone; and a second time. Wall clock of the whole command, medians.
"""

from __future__ import annotations

import shutil
import statistics
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import torch
from measured import measure, where
from transformers import LlamaConfig, LlamaForCausalLM

FOLDER = Path("build/first-merge")
PROGRAM = Path(sysconfig.get_path("scripts")) / "weightsmith"
NAMES = ("base", "one", "other")
METHODS = {
    "ties": ["--density", "0.5", "--weight", "1"],
    "task_arithmetic": ["--weight", "1"],
    "breadcrumbs": ["--density", "0.5", "--gamma", "0.1", "--weight", "1"],
    "dare_ties": ["--density", "0.5", "--weight", "1"],
    "della": ["--density", "0.5", "--weight", "1"],
    "model_stock": [],
    "linear": ["--weight", "1"],
}
ROUNDS = 3


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    make_models()
    print(f"{where()}\n")
    print("| method | first, s | after ties, s | again, s |")
    print("| --- | ---: | ---: | ---: |")
    after_ties = FOLDER / "kernels-of-ties"
    once("ties", after_ties)
    for method in METHODS:
        columns: list[list[float]] = [[], [], []]
        for number in range(ROUNDS):
            empty, copied = FOLDER / f"{method}-{number}-empty", FOLDER / f"{method}-{number}-copied"
            shutil.copytree(after_ties, copied)
            for seconds, kernels in zip(columns, (empty, copied, empty), strict=True):
                seconds.append(once(method, kernels))
        print(f"| {method} | {' | '.join(f'{statistics.median(seconds):.1f}' for seconds in columns)} |", flush=True)


def make_models() -> None:
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=256
    )
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(FOLDER / name)


def once(method: str, kernels: Path) -> float:
    """Seconds of a merge whose kernels are kept in that folder."""
    out, (base, *others) = FOLDER / "out", [str(FOLDER / name) for name in NAMES]
    shutil.rmtree(out, ignore_errors=True)
    models: Sequence[str] = others if method == "linear" else ["--base", base, *others]
    command = [str(PROGRAM), "merge", "--method", method, *METHODS[method], *models, "-o", str(out)]
    return measure(command, NUMBA_CACHE_DIR=str(kernels)).wall


if __name__ == "__main__":
    main()
