"""An inspection in a terminal: one compact table per model, one list of what matches and what does not."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from weightsmith.architecture.inspect_models import Inspection, ModelFacts, shown_tensors
from weightsmith.cli.sizes import show_size

_SIGNS = {"same": "[green]ok[/]", "converted": "[cyan]converted[/]", "note": "note", "blocks": "[red]change[/]"}


def show_inspection(found: Inspection) -> None:
    """Print to standard output."""
    console = Console(highlight=False, soft_wrap=True)
    for model in found.models:
        table = Table(
            box=box.SIMPLE_HEAD, title=model.reference, title_justify="left", show_header=False, pad_edge=False
        )
        for name, value in _rows(model):
            table.add_row(name, value)
        console.print(table)
    for finding in found.findings:
        about = f"{finding.model}: " if finding.model else ""
        tensors = f" ({shown_tensors(finding)})" if finding.tensors else ""
        console.print(f"{_SIGNS[finding.kind]}  ", end="")
        console.print(f"{about}{finding.text}{tensors}", markup=False)


def _rows(model: ModelFacts) -> list[tuple[str, str]]:
    rows = [
        ("architecture", model.architecture),
        ("naming", model.naming),
        ("layers", str(model.layers)),
        ("parameters", f"{model.parameters:,}"),
        ("dtype", ", ".join(model.dtypes)),
        ("vocabulary", str(model.vocabulary or "unknown") + (", output tied to it" if model.tied else "")),
        ("files", f"{model.files}, {show_size(model.bytes)}"),
    ]
    return rows + ([("LoRA rank", str(model.lora_rank))] if model.lora_rank is not None else [])
