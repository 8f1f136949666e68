"""Merges of Phi-2 (random weights) on many cores and on a device, beside mergekit; `on_gpu.py` says which."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from measured import Measured, floor_command, measure, warm
from safetensors import safe_open
from safetensors.torch import save_file
from synthetic_phi2 import save_config, shapes, write_recipe

from weightsmith.machine import available_cores

WEIGHTSMITH = [sys.executable, "-m", "weightsmith"]
MERGEKIT = [sys.executable, "-m", "mergekit.scripts.run_yaml"]
GROWTH = ("ties", "linear")  # measured on one thread, half of the cores and all of them; the others on all


def print_merges(methods: Sequence[str], folder: Path, memory: Path, device: str, left: Callable[[], float]) -> None:
    """A table: for each method seconds of all sides, whose outputs go into `memory`, and how far they are apart. What
    may take longer than is `left` (seconds) is not begun."""
    cores = available_cores()
    threads = sorted({1, max(1, cores // 2), cores})
    head = [*(f"{n} threads, s" for n in threads), f"--device {device}, s", "mergekit, s", "compared"]
    print(
        "| output in memory | " + " | ".join(head) + " |\n| --- |" + " ---: |" * (len(head) - 1) + " --- |", flush=True
    )
    longest = 0.0
    for method in methods:
        if left() < longest:
            print(f"| {method} | left out: no time was left |", flush=True)
            continue
        began = time.monotonic()
        print_row(method, folder, memory, threads if method in GROWTH else threads[-1:], len(threads), device)
        longest = max(longest, time.monotonic() - began)


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


def print_row(method: str, folder: Path, memory: Path, threads: list[int], columns: int, device: str) -> None:
    recipe, inputs = write_recipe(folder, method)
    warm(inputs)
    outputs = {"processor": memory / "processor", "device": memory / "device", "mergekit": memory / "mergekit"}
    ours = [*WEIGHTSMITH, "merge", str(recipe), "-q", "--device"]
    taken = [merged([*ours, "cpu", "--threads", str(count)], outputs["processor"]) for count in threads]
    taken.append(merged([*ours, device], outputs["device"]))
    command = [*MERGEKIT, str(recipe), "--no-copy-tokenizer", "--quiet", *(["--cuda"] if device == "cuda" else [])]
    taken.append(merged(command, outputs["mergekit"]))
    compared = [f"{name} {apart(outputs['processor'], outputs[name], device)}" for name in ("device", "mergekit")]
    seconds = [*[""] * (columns - len(threads)), *(f"{one.wall:.2f}" for one in taken)]
    print(f"| {method} | " + " | ".join(seconds) + f" | {'; '.join(compared)} |", flush=True)
    for out in outputs.values():
        shutil.rmtree(out)


def print_on_disk(methods: Sequence[str], folder: Path, device: str) -> None:
    """A table: output on the disk, with fsync, beside what any program has to do."""
    print(
        f"\n| output on the disk, with fsync | all threads, s | --device {device}, s | floor, s |\n"
        "| --- | ---: | ---: | ---: |"
    )
    for method in methods:
        inputs, ours, there = on_both(method, folder, {"cpu": folder / "out", device: folder / "out"})
        floor = measure(floor_command(inputs, folder / "floor"))
        print(f"| {method} | {ours.wall:.2f} | {there.wall:.2f} | {floor.wall:.2f} |", flush=True)
    shutil.rmtree(folder / "out")
    (folder / "floor").unlink()


def print_matrices(methods: Sequence[str], folder: Path, memory: Path, device: str) -> None:
    """A table: methods of matrices, of models that have few layers."""
    print(
        f"\n| methods of matrices, 1 layer | all threads, s | --device {device}, s | compared |\n"
        "| --- | ---: | ---: | --- |"
    )
    for method in methods:
        _, ours, there = on_both(method, folder, {place: memory / place for place in ("cpu", device)})
        print(
            f"| {method} | {ours.wall:.2f} | {there.wall:.2f} | {apart(memory / 'cpu', memory / device, device)} |",
            flush=True,
        )


def on_both(method: str, folder: Path, outputs: dict[str, Path]) -> tuple[list[Path], Measured, Measured]:
    """The inputs, and a merge on each of two devices, into the output folder that is named for it."""
    recipe, inputs = write_recipe(folder, method)
    warm(inputs)
    command = [*WEIGHTSMITH, "merge", str(recipe), "-q", "--device"]
    first, second = (merged([*command, place], out) for place, out in outputs.items())
    return inputs, first, second


def merged(command: list[str], out: Path) -> Measured:
    """The command, its output folder behind the recipe."""
    shutil.rmtree(out, ignore_errors=True)
    at = next(number for number, part in enumerate(command) if part.endswith(".yml")) + 1
    return measure([*command[:at], str(out), *command[at:]])


def apart(first: Path, second: Path, device: str) -> str:
    """How far two merged models differ, in words; they are compared on `device`."""
    different, most, total = 0, 0.0, 0
    for ours in sorted(first.glob("*.safetensors")):
        with safe_open(ours, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # safe_open is no mapping
                a, b = tensors.get_tensor(name).to(device), tensor_of(second, name).to(device)
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
