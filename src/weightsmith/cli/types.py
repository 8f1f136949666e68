"""GGUF types, and what was found of a file, in a terminal."""

from __future__ import annotations

from rich.table import Table

from weightsmith.cli.plain_console import plain_console
from weightsmith.export.fidelity import in_words
from weightsmith.export.model_export import ExportSummary
from weightsmith.export.types import TypeSize
from weightsmith.sizes import show_size


def show_types(types: list[TypeSize], model: str) -> None:
    """Print to standard output; sizes are those of `model`."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for title in ("type", "bits per weight", model, "what for"):
        table.add_column(title, justify="left" if title in ("type", "what for") else "right", no_wrap=True)
    for one in types:
        table.add_row(one.type, f"{one.bits_per_weight:.2f}", show_size(one.bytes), one.advice)
    plain_console().print(table)


def show_export(done: ExportSummary) -> None:
    """Print to standard output: files, what was found of them, and how to run the last one."""
    for file in done.files:
        bits = f", {file.bits_per_weight:.2f} bits per weight" if file.bits_per_weight else ""
        print(f"{file.path}: {show_size(file.bytes)}{bits}{', unchanged' if file.reused else ''}")
        if file.fidelity:
            print(f"    {in_words(file.fidelity)}")
    plain = done.intermediate
    kept = f"; kept {plain}" if plain and plain.exists() and plain not in [file.path for file in done.files] else ""
    print(f"done in {done.seconds:.1f} s{kept}\n")
    print(f"run it:  llama-cli -m {done.files[-1].path}\n    or:  llama-server -m {done.files[-1].path}")
    if done.modelfile:
        print(f"    or:  ollama create NAME -f {done.modelfile}")
