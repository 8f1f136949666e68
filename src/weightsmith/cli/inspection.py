"""An inspection in a terminal: one compact table per model, what matches and what does not, and the heat map."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from weightsmith.cli.plain_console import plain_console
from weightsmith.inspection.compare import Finding
from weightsmith.inspection.facts import ModelFacts
from weightsmith.inspection.inspect import Inspection
from weightsmith.sizes import show_size

if TYPE_CHECKING:
    from weightsmith.inspection.task_vectors import Movement

_SIGNS = {
    "same": ("ok", "green"),
    "converted": ("converted", "cyan"),
    "note": ("note", "default"),
    "blocks": ("change", "red"),
}
_SHOWN = 6  # names or tokens per finding
_SHADES = " ░▒▓█"
_COLOURS = ("default", "blue", "cyan", "yellow", "red")


def show_inspection(found: Inspection, *, everything: bool = False) -> None:
    """Print to standard output; `everything`: all names of each finding. Behind the tables, models are called by the ends of
    their paths where those tell them apart."""
    short = _short([model.reference for model in found.models])
    console = plain_console()
    for model in found.models:
        table = Table(box=None, show_header=False, padding=(0, 2))
        for name, value in _rows(model):
            table.add_row(Text(name, style="dim"), Text(value))
        console.print(Text(model.reference, style="bold"))
        console.print(table)
        console.print()
    for finding in found.findings:
        word, colour = _SIGNS[finding.kind]
        about = f"{short[finding.model]}: " if finding.model else ""
        text = finding.text
        for reference in sorted(short, key=len, reverse=True):
            text = text.replace(reference, short[reference])
        console.print(Text(f"{word:<10}", style=colour) + Text(about + text))
        for line in _details(finding, everything):
            console.print(Text(f"{'':<10}  {line}", style="dim"))
    if found.movement:
        _show_movement(console, found.movement, short)


def _short(references: list[str]) -> dict[str, str]:
    ends = ["+".join(part.rstrip("/").rpartition("/")[2] for part in reference.split("+")) for reference in references]
    return dict(zip(references, ends if len(set(ends)) == len(ends) else references, strict=True))


def _details(finding: Finding, everything: bool) -> list[str]:
    mapping = any(" <- " in line for line in finding.details)
    if everything or mapping or len(finding.details) <= _SHOWN:
        return list(finding.details)
    return [*finding.details[:_SHOWN], f"and {len(finding.details) - _SHOWN} more (--all lists them)"]


def _rows(model: ModelFacts) -> list[tuple[str, str]]:
    rows = [
        ("architecture", model.architecture),
        ("naming", model.naming),
        ("layers", str(model.layers)),
        ("parameters", f"{model.parameters:,}"),
        ("dtype", ", ".join(model.dtypes)),
        (
            "vocabulary",
            f"{model.vocabulary or 'unknown'} rows" + (", output tied to them" if model.tied else ", output apart"),
        ),
        ("files", f"{model.files}, {show_size(model.bytes)}"),
    ]
    return rows + ([("LoRA rank", str(model.lora_rank))] if model.lora_rank is not None else [])


def _show_movement(console: Console, movement: Movement, short: dict[str, str]) -> None:
    modules = list(dict.fromkeys(cell.module for cell in movement.cells if cell.layer is not None))
    layers = sorted({cell.layer for cell in movement.cells if cell.layer is not None})
    for i, name in enumerate(movement.names):
        moved = {(cell.layer, cell.module): cell.moved[i] for cell in movement.cells}
        largest = max((value for value in moved.values() if math.isfinite(value)), default=0.0)
        table = Table(
            box=None, title=f"{short[name]}: moved {movement.whole[i]:.2%} of the base's length, by layer and module",
            title_justify="left", pad_edge=False, padding=(0, 1),
        )  # fmt: skip
        table.add_column("layer", justify="right")
        for module in modules:
            table.add_column(module.replace(".", "\n"), justify="right")
        for layer in layers:
            table.add_row(str(layer), *(_cell(moved.get((layer, module)), largest) for module in modules))
        console.print()
        console.print(table)
        outside = [(cell.module, cell.moved[i]) for cell in movement.cells if cell.layer is None]
        if outside:
            console.print(
                Text("outside the layers: " + ", ".join(f"{module} {value:.2%}" for module, value in outside))
            )
    for pair in movement.pairs:
        cosine = "undefined" if pair.cosine is None else f"{pair.cosine:+.3f}"
        signs = "undefined" if pair.sign_agreement is None else f"{pair.sign_agreement:.1%}"
        console.print()
        console.print(Text(f"{short[pair.first]} and {short[pair.second]}: cosine of task vectors {cosine}, signs agree in {signs} of the "
                           f"{pair.overlap:.0%} of weights that both moved: {pair.verdict}"))  # fmt: skip
    if movement.skipped:
        console.print(Text(f"{len(movement.skipped)} tensors left out, whose shapes differ or that are no floats"))


def _cell(value: float | None, largest: float) -> Text:
    if value is None:
        return Text("")
    level = 0 if not largest else min(4, math.ceil(4 * value / largest)) if math.isfinite(value) else 4
    return Text(f"{value:.2%} {_SHADES[level]}", style=_COLOURS[level])
