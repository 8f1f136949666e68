"""Merges of a full-size Phi-2 (fp16, random weights) on many cores and on a device, beside mergekit, in one run.

    benchmarks/on_gpu.sh [--dry]

Every method: weightsmith on 1 thread, on half of the cores and on all of them, with `--device`, and mergekit, which
computes on the device too; the output goes into memory (/dev/shm), the inputs come from the page cache. TIES and linear
go to the disk as well, with fsync, beside the floor: read the inputs once, write one output. Bytes of the device are
compared with those of the processor, and mergekit's numbers with ours. What has not begun after 8 minutes is left out,
and said so. `--dry` does the same for TIES of a tiny model, on `cpu:0`.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
import time
from pathlib import Path
from tempfile import mkdtemp

import synthetic_phi2
import torch
from measured import Measured, floor_command, measure, warm, where
from safetensors import safe_open
from safetensors.torch import save_file
from synthetic_phi2 import METHODS, parameters, save_config, shapes, write_recipe

from weightsmith.machine import available_cores

SECONDS = 8 * 60
WEIGHTSMITH = [sys.executable, "-m", "weightsmith"]
MERGEKIT = str(Path(sysconfig.get_path("scripts")) / "mergekit-yaml")
TO_DISK = ("ties", "linear")
DRY = ("ties",)


def main() -> None:
    began, dry = time.monotonic(), "--dry" in sys.argv[1:]
    device, layers = ("cpu:0", 1) if dry else ("cuda", 32)
    if dry:
        synthetic_phi2.HIDDEN, synthetic_phi2.INNER, synthetic_phi2.VOCABULARY = 64, 128, 256
    memory, disk = (Path(mkdtemp(prefix="weightsmith-", dir=place)) for place in ("/dev/shm", None))
    try:
        make_models(disk, layers, device)
        card = torch.cuda.get_device_name() if device == "cuda" else "no card, a dry run"
        print(f"{card}; {where()}; {parameters(layers):,} parameters\n", flush=True)
        cores = available_cores()
        threads = [1] if dry else sorted({1, max(1, cores // 2), cores})
        print_head([*(f"{n} threads" for n in threads), f"--device {device}", "mergekit"])
        for method in DRY if dry else METHODS:
            if time.monotonic() - began > SECONDS:
                print(f"| {method} | not begun: {SECONDS} s are over |")
                continue
            print_row(method, disk, memory, threads, device)
        print(
            "\n| output on the disk, with fsync | all threads, s | device, s | floor, s |\n| --- | ---: | ---: | ---: |"
        )
        for method in DRY if dry else TO_DISK:
            print_disk(method, disk, device)
    finally:
        for folder in (memory, disk):
            shutil.rmtree(folder, ignore_errors=True)


def make_models(folder: Path, layers: int, device: str) -> None:
    """`base`, `one` and `two`, their weights drawn on the device."""
    for seed, name in enumerate(("base", "one", "two")):
        of_base, own = (torch.Generator(device).manual_seed(number) for number in (0, 100 + seed))
        tensors = {}
        for tensor, shape in shapes(layers).items():
            values = torch.randn(shape, generator=of_base, device=device) * 0.02
            if seed:
                values += torch.randn(shape, generator=own, device=device) * 0.002
            tensors[tensor] = values.half().cpu()
        (folder / name).mkdir()
        save_file(tensors, folder / name / "model.safetensors", {"format": "pt"})
        save_config(folder / name, layers)


def print_head(columns: list[str]) -> None:
    print("| output in memory | " + " | ".join(f"{column}, s" for column in columns) + " | compared |")
    print("| --- |" + " ---: |" * len(columns) + " --- |", flush=True)


def print_row(method: str, folder: Path, memory: Path, threads: list[int], device: str) -> None:
    recipe, inputs = write_recipe(folder, method)
    warm(inputs)
    taken: list[Measured] = []
    outputs = {"processor": memory / "processor", "device": memory / "device", "mergekit": memory / "mergekit"}
    for count in threads:
        taken.append(merged([*WEIGHTSMITH, "merge", str(recipe), "-q", "--threads", str(count)], outputs["processor"]))
    taken.append(merged([*WEIGHTSMITH, "merge", str(recipe), "-q", "--device", device], outputs["device"]))
    command = [MERGEKIT, str(recipe), "--no-copy-tokenizer", "--quiet", *(["--cuda"] if device == "cuda" else [])]
    taken.append(merged(command, outputs["mergekit"]))
    compared = [f"{name} {apart(outputs['processor'], outputs[name])}" for name in ("device", "mergekit")]
    print(f"| {method} | " + " | ".join(f"{one.wall:.2f}" for one in taken) + f" | {'; '.join(compared)} |", flush=True)
    for out in outputs.values():
        shutil.rmtree(out)


def print_disk(method: str, folder: Path, device: str) -> None:
    recipe, inputs = write_recipe(folder, method)
    warm(inputs)
    command = [*WEIGHTSMITH, "merge", str(recipe), "-q"]
    ours, on_device = merged(command, folder / "out"), merged([*command, "--device", device], folder / "out")
    floor = measure(floor_command(inputs, folder / "floor"))
    print(f"| {method} | {ours.wall:.2f} | {on_device.wall:.2f} | {floor.wall:.2f} |", flush=True)


def merged(command: list[str], out: Path) -> Measured:
    """The command, its output folder behind the recipe."""
    shutil.rmtree(out, ignore_errors=True)
    at = next(number for number, part in enumerate(command) if part.endswith(".yml")) + 1
    return measure([*command[:at], str(out), *command[at:]])


def apart(first: Path, second: Path) -> str:
    """How far two merged models differ, in words."""
    different, most, total = 0, 0.0, 0
    for ours in sorted(first.glob("*.safetensors")):
        with safe_open(ours, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # safe_open is no mapping
                a, b = tensors.get_tensor(name), tensor_of(second, name)
                total += a.numel()
                if not torch.equal(a, b):
                    change = (a.float() - b.float()).abs()
                    different += int((change != 0).sum())
                    most = max(most, float(change.max()))
    return "same bytes" if not different else f"{different / total:.1e} of elements differ, by {most:.1e} at most"


def tensor_of(folder: Path, name: str) -> torch.Tensor:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118
                return tensors.get_tensor(name)
    raise SystemExit(f"{folder}: no tensor {name}")


if __name__ == "__main__":
    main()
