"""`weightsmith inspect`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weightsmith.commands.terminal.json_output import AsJson, as_json, echo_json
from weightsmith.commands.terminal.options import Quiet, Threads
from weightsmith.errors import WeightsmithError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from weightsmith.inspection.compare_models import Finding
    from weightsmith.inspection.inspect import Inspection
    from weightsmith.inspection.model_facts import ModelFacts
    from weightsmith.inspection.movement import Movement

_LABELS = {
    "same": ("ok", "green"),
    "converted": ("converted", "cyan"),
    "note": ("note", "default"),
    "blocks": ("change", "red"),
}
_SHOWN = 6  # names or tokens per finding
_SHADES = " ░▒▓█"
_COLOURS = ("default", "blue", "cyan", "yellow", "red")


def inspect(
    models: Annotated[list[str] | None, typer.Argument(help="Models, the base first.", show_default=False)] = None,
    recipe: Annotated[Path | None, typer.Option(help="Take the models of this merge recipe.")] = None,
    stats: Annotated[
        bool,
        typer.Option(
            "--stats", help="Read all weights: how far each moved from the base, and whether they pull the same way."
        ),
    ] = False,
    save_mapping: Annotated[
        Path | None, typer.Option(help="Write the mapping proposed for unknown tensor names to this file.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="List all tensor names and tokens, not just the first few.")
    ] = False,
    json_: AsJson = False,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Say what each model is and whether they can be merged, from their headers alone.

    A hub id (owner/name@revision) is inspected without downloading its weights. Exit code 0: they can be merged as they
    are. 3: after the changes that are named. 2: a model is broken.

    Example: weightsmith inspect phi-2 phi-2-orange dolphin-2_6-phi-2
    """
    from weightsmith.commands.terminal.show_progress import show_progress
    from weightsmith.inspection.inspect import inspect as inspect_models

    beside, tokenizer_source, references = None, None, list(models or [])
    if recipe:
        from weightsmith.recipe.documents import stage_in
        from weightsmith.recipe.recipe import load_recipe, model_references

        loaded = load_recipe(recipe)
        tokenizer = loaded.schema.tokenizer
        tokenizer_source = tokenizer.source if tokenizer else loaded.schema.tokenizer_source
        stages = [loaded, *(loaded.stages[name] for name in loaded.used_stages)]
        named = [reference for stage in stages for reference in model_references(stage)]
        own = [reference for reference in named if stage_in(reference, loaded.stages) is None]
        beside, references = recipe.parent, [*own, *references]
    if not references:
        raise typer.BadParameter("give models, or --recipe")
    with show_progress(quiet=quiet or not stats) as (_, on_progress):
        inspection = inspect_models(
            references,
            beside=beside,
            tokenizer_source=tokenizer_source,
            stats=stats,
            threads=threads,
            on_progress=on_progress,
        )
    if json_:
        echo_json(as_json(inspection) | {"mergeable": inspection.mergeable})
    elif not quiet:
        show_inspection(inspection, everything=everything)
    if save_mapping:
        if len(inspection.mappings) != 1:
            raise WeightsmithError(
                f"--save-mapping: {len(inspection.mappings)} models need a mapping; inspect the base and one that does"
            )
        save_mapping.write_text(next(iter(inspection.mappings.values())), encoding="utf-8")
    if not inspection.mergeable:
        raise typer.Exit(3)


def show_inspection(inspection: Inspection, *, everything: bool = False) -> None:
    """Print to standard output: one table per model, the findings, the heat map. `everything`: all names of each
    finding. Behind the tables, models go by the ends of their paths where those tell them apart."""
    from rich.table import Table
    from rich.text import Text

    from weightsmith.commands.terminal.tables import plain_console
    from weightsmith.models.find_model import unique_ends

    short = unique_ends([model.reference for model in inspection.models])
    console = plain_console()
    for model in inspection.models:
        table = Table(box=None, show_header=False, padding=(0, 2))
        for name, value in _rows(model):
            table.add_row(Text(name, style="dim"), Text(value))
        console.print(Text(model.reference, style="bold"))
        console.print(table)
        console.print()
    for finding in inspection.findings:
        label, colour = _LABELS[finding.severity]
        about = f"{short[finding.model]}: " if finding.model else ""
        text = finding.text
        for reference in sorted(short, key=len, reverse=True):
            text = text.replace(reference, short[reference])
        console.print(Text(f"{label:<10}", style=colour) + Text(about + text))
        for line in _details(finding, everything):
            console.print(Text(f"{'':<10}  {line}", style="dim"))
    if inspection.movement:
        _show_movement(console, inspection.movement, short)


def _details(finding: Finding, everything: bool) -> list[str]:
    mapping = any(" <- " in line for line in finding.details)
    if everything or mapping or len(finding.details) <= _SHOWN:
        return list(finding.details)
    return [*finding.details[:_SHOWN], f"and {len(finding.details) - _SHOWN} more (--all lists them)"]


def _rows(model: ModelFacts) -> list[tuple[str, str]]:
    from weightsmith.units import show_size

    output = "output tied to them" if model.tied else "separate output matrix"
    rows = [
        ("architecture", model.architecture),
        ("naming", model.naming),
        ("layers", str(model.layers)),
        ("parameters", f"{model.parameters:,}"),
        ("dtype", ", ".join(model.dtypes)),
        *([("quantization", model.quantization)] if model.quantization else []),
        ("vocabulary", f"{model.vocabulary or 'unknown'} rows, {output}"),
        ("files", f"{model.files}, {show_size(model.bytes)}"),
    ]
    return rows + ([("LoRA rank", str(model.lora_rank))] if model.lora_rank is not None else [])


def _show_movement(console: Console, movement: Movement, short: dict[str, str]) -> None:
    from rich.table import Table
    from rich.text import Text

    from weightsmith.inspection.suggest_method import suggest

    modules = list(dict.fromkeys(cell.module for cell in movement.cells if cell.layer is not None))
    layers = sorted({cell.layer for cell in movement.cells if cell.layer is not None})
    for i, name in enumerate(movement.names):
        moved = {(cell.layer, cell.module): cell.moved[i] for cell in movement.cells}
        largest = max((value for value in moved.values() if math.isfinite(value)), default=0.0)
        title = f"{short[name]}: moved {movement.whole[i]:.2%} of the base's length, by layer and module"
        table = Table(box=None, title=title, title_justify="left", pad_edge=False, padding=(0, 1))
        table.add_column("layer", justify="right")
        for module in modules:
            table.add_column(module.replace(".", "\n"), justify="right")
        for layer in layers:
            table.add_row(str(layer), *(_cell(moved.get((layer, module)), largest) for module in modules))
        console.print()
        console.print(table)
        outside = [f"{cell.module} {cell.moved[i]:.2%}" for cell in movement.cells if cell.layer is None]
        if outside:
            console.print(Text("outside the layers: " + ", ".join(outside)))
    for pair in movement.pairs:
        cosine = "undefined" if pair.cosine is None else f"{pair.cosine:+.3f}"
        signs = "undefined" if pair.sign_agreement is None else f"{pair.sign_agreement:.1%}"
        console.print()
        console.print(
            Text(
                f"{short[pair.first]} and {short[pair.second]}: cosine of task vectors {cosine}, signs agree in "
                f"{signs} of the {pair.overlap:.0%} of weights that both moved: {pair.verdict}"
            )
        )
    if suggestion := suggest(movement):
        console.print()
        console.print(Text(f"{suggestion}; an evaluation decides"))
    if movement.skipped:
        console.print(Text(f"{len(movement.skipped)} tensors left out: their shapes differ, or they are integers"))


def _cell(value: float | None, largest: float) -> Text:
    from rich.text import Text

    if value is None:
        return Text("")
    level = 0 if not largest else min(4, math.ceil(4 * value / largest)) if math.isfinite(value) else 4
    return Text(f"{value:.2%} {_SHADES[level]}", style=_COLOURS[level])
