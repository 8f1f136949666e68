"""`weightsmith export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightsmith.commands.terminal.json_output import AsJson, echo_json
from weightsmith.commands.terminal.options import Force, Quiet, Threads, resumable

if TYPE_CHECKING:
    from weightsmith.gguf.conversion.export_source import ExportJob
    from weightsmith.gguf.export import ExportSummary
    from weightsmith.gguf.gguf_types import TypeSize


def export(
    model: Annotated[
        str | None, typer.Argument(help="A model: folder, GGUF file or hub id, +ADAPTER.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Argument(help="A folder, or for one type a file that ends in .gguf.", show_default=False)
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option("--types", "--type", "-t", help="f32, f16, bf16, q8_0, q4_k_m, ...; repeatable. [default: f16]"),
    ] = None,
    list_types: Annotated[
        bool, typer.Option("--list-types", help="List all types, their sizes, and what each is for.")
    ] = False,
    intermediate: Annotated[
        str,
        typer.Option(
            help="The type that quantized files are made from: f16, bf16 or f32; auto: bf16 for bfloat16 weights, "
            "else f16."
        ),
    ] = "auto",
    keep: Annotated[bool, typer.Option("--keep/--no-keep", help="Keep that intermediate file.")] = True,
    imatrix: Annotated[
        Path | None, typer.Option(help="An importance matrix made by llama.cpp.", show_default=False)
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="A text to compute an importance matrix from.", show_default=False)
    ] = None,
    check: Annotated[
        str,
        typer.Option(help="Compare tokens and next-token distributions with the model's own: fast, full or none."),
    ] = "fast",
    name: Annotated[str | None, typer.Option(help="The model's name. [default: its folder's]")] = None,
    base: Annotated[str | None, typer.Option(help="The base model of an adapter that is exported alone.")] = None,
    llama_cpp: Annotated[
        Path | None,
        typer.Option(
            help="A llama.cpp checkout, to use its converter instead of the installed one.", show_default=False
        ),
    ] = None,
    threads: Threads = None,
    force: Force = False,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Convert MODEL, whatever its layout, to GGUF, and quantize it.

    A folder gets NAME-TYPE.gguf and manifest.json; files that are still up to date are not rebuilt. A LoRA adapter
    alone becomes a file for llama-cli --lora.

    Example: weightsmith export merged gguf --type q4_k_m --type q8_0
    """
    from weightsmith.units import show_size

    if list_types:
        from weightsmith.gguf.gguf_types import list_types as all_types

        sizes = all_types(model)
        echo_json(sizes) if json_ else _show_types(sizes, model or "Llama 3 8B")
        return
    if model is None or out is None:
        raise typer.BadParameter("give a model and the output to write")
    from weightsmith.gguf.export_adapter import export_adapter, is_adapter

    types = types or ["f16"]
    if is_adapter(Path(model)):
        if len(types) > 1:
            raise typer.BadParameter("an adapter is exported as one file of one type", param_hint="--type")
        adapter = export_adapter(Path(model), out, base=base, type=types[0], name=name, force=force)
        if json_:
            echo_json(adapter)
        elif not quiet:
            typer.echo(f"{out}: {adapter.weights} weights adapted, rank {adapter.rank}, {show_size(adapter.bytes)}")
        return
    export_and_show(
        model,
        out,
        quiet,
        types=types,
        intermediate=intermediate,
        keep=keep,
        imatrix=imatrix,
        calibrate=calibrate,
        check=check,
        name=name,
        llama_cpp=llama_cpp,
        threads=threads,
        force=force,
        json_=json_,
    )


def export_and_show(
    model: str | ExportJob,
    out: Path,
    quiet: bool,
    again: str = "the same command",
    *,
    json_: bool = False,
    **options: Any,
) -> None:
    """Export with progress, then print what was made; `again`: the command that resumes it."""
    from weightsmith.commands.terminal.show_progress import show_progress
    from weightsmith.gguf.export import export as export_model

    with resumable(again), show_progress(quiet=quiet) as (log, on_progress):
        summary = export_model(model, out, log=log, on_progress=on_progress, **options)
    if json_:
        echo_json(summary)
    elif not quiet:
        _show_export(summary)


def _show_types(types: list[TypeSize], model: str) -> None:
    """Sizes are those of `model`."""
    from rich.table import Table

    from weightsmith.commands.terminal.tables import plain_console
    from weightsmith.units import show_size

    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for title in ("type", "bits per weight", model, "what for"):
        table.add_column(title, justify="left" if title in ("type", "what for") else "right", no_wrap=True)
    for row in types:
        table.add_row(row.type, f"{row.bits_per_weight:.2f}", show_size(row.bytes), row.advice)
    plain_console().print(table)


def _show_export(summary: ExportSummary) -> None:
    """Files, what their checks measured, and how to run the last one."""
    from weightsmith.gguf.fidelity import describe_fidelity
    from weightsmith.units import show_size

    for file in summary.files:
        bits = f", {file.bits_per_weight:.2f} bits per weight" if file.bits_per_weight else ""
        print(f"{file.path}: {show_size(file.bytes)}{bits}{', unchanged' if file.reused else ''}")
        if file.fidelity:
            print(f"    {describe_fidelity(file.fidelity)}")
    plain = summary.intermediate
    kept = plain and plain.exists() and plain not in [file.path for file in summary.files]
    print(f"done in {summary.seconds:.1f} s{f'; kept {plain}' if kept else ''}\n")
    print(f"run it:  llama-cli -m {summary.files[-1].path}\n    or:  llama-server -m {summary.files[-1].path}")
    if summary.modelfile:
        print(f"    or:  ollama create NAME -f {summary.modelfile}")
