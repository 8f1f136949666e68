"""What has to be measured on a machine with a GPU, the most telling first, in 8 minutes.

    benchmarks/on_gpu.sh [--dry | --prepare]

Base and two fine-tunes of a full-size Phi-2 (fp16, random weights) are made on the device. Merges: weightsmith on the
processor and with `--device`, and mergekit, which computes on the device too; the output goes into memory (/dev/shm),
the inputs come from the page cache; TIES and linear go to the disk as well, beside the floor: read the inputs once,
write one output, with fsync. Bytes of the device are compared with those of the processor, and mergekit's numbers with
ours. Then questions, beside lm-eval, and candidates of a search. What there is no time left for is left out, and said
so. `--dry` does the same with TIES and TSV-M of a tiny model, on `cpu:0`.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import synthetic_phi2
import torch
from ask_on_gpu import asked, searched
from measured import where
from merge_on_gpu import make_models, print_matrices, print_merges, print_on_disk
from synthetic_phi2 import MATRICES, METHODS, parameters

from weightsmith.demo.run_demo import base_model
from weightsmith.files.markdown import markdown_table
from weightsmith.models.open_model import open_model
from weightsmith.tokenizer.tokenizer_files import write_tokenizer_files

SECONDS = 8 * 60
TOKENIZER = Path("build/for-gpu/tokenizer")  # SmolLM2's, where the demo's base model is not
FIRST = ("ties", "linear", "della")


def prepare() -> None:
    """For a machine without a network."""
    TOKENIZER.mkdir(parents=True, exist_ok=True)
    write_tokenizer_files(open_model(str(base_model())), TOKENIZER)


def main() -> None:
    began, dry = time.monotonic(), "--dry" in sys.argv[1:]
    device, layers = ("cpu:0", 1) if dry else ("cuda", 32)
    if dry:
        synthetic_phi2.HIDDEN, synthetic_phi2.INNER, synthetic_phi2.VOCABULARY = 64, 128, 49152
    memory, disk = (Path(mkdtemp(prefix="weightsmith-", dir=place)) for place in ("/dev/shm", None))
    card = torch.cuda.get_device_name() if device == "cuda" else "no card, a dry run"
    print(f"{card}; {where()}; {parameters(layers):,} parameters\n", flush=True)

    def left() -> float:
        return SECONDS - (time.monotonic() - began)

    def print_asked(dtype: str) -> None:
        print(f"\n{markdown_table(asked(disk / 'base', device, dtype, dry))}", flush=True)

    def print_few_layers() -> None:
        few = disk / "few-layers"
        few.mkdir()
        make_models(few, 1, device)
        print_matrices(MATRICES[:1] if dry else MATRICES, few, memory, device)

    def print_searched() -> None:
        print(f"\n{markdown_table(searched(disk, device, dry))}", flush=True)

    first = FIRST[:1] if dry else FIRST
    rest = [] if dry else [method for method in METHODS if method not in FIRST]
    # What is measured, how many seconds it takes at most (as far as is known), and how.
    steps: list[tuple[str, float, Callable[[], None]]] = [
        ("merges", 0, lambda: print_merges(first, disk, memory, device, left)),
        ("bfloat16 questions", 90, lambda: print_asked("bfloat16")),
        ("candidates", 40, print_searched),
        ("the disk", 50, lambda: print_on_disk(FIRST[:1] if dry else FIRST[:2], disk, device)),
        ("methods of matrices", 60, print_few_layers),
        ("float32 questions", 90, lambda: print_asked("float32")),
        ("more merges", 60, lambda: print_merges(rest, disk, memory, device, left)),
    ]
    try:
        make_models(disk, layers, device)
        for name in ("base", "one", "two"):
            if TOKENIZER.is_dir():
                shutil.copytree(TOKENIZER, disk / name, dirs_exist_ok=True)
            else:
                write_tokenizer_files(open_model(str(base_model())), disk / name)
        for title, seconds, measure_it in steps:
            if left() < seconds:
                print(f"\n{title}: left out, {left():.0f} s of {SECONDS} were left", flush=True)
            elif not (dry and title in ("bfloat16 questions", "more merges")):
                measure_it()
    finally:
        for folder in (memory, disk):
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    prepare() if "--prepare" in sys.argv[1:] else main()
