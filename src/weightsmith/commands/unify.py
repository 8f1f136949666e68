"""`weightsmith unify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weightsmith.commands.terminal.json_output import AsJson, echo_json
from weightsmith.commands.terminal.options import AcceptMapping, Force, OutShardSize, Quiet, Restart, Threads, resumable


def unify(
    model: Annotated[str, typer.Argument(help="A model: folder or GGUF file, +ADAPTER.")],
    out: Annotated[Path, typer.Argument(help="The folder to create.")],
    out_shard_size: OutShardSize = "5GB",
    to: Annotated[str | None, typer.Option("--to", help="Write an older layout instead, such as phi-msft.")] = None,
    like: Annotated[str | None, typer.Option(help="The base model, whose names MODEL is mapped to.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="A file that maps MODEL's names to those of --like.")] = None,
    accept_mapping: AcceptMapping = False,
    threads: Threads = None,
    force: Force = False,
    restart: Restart = False,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write MODEL under the names that transformers has today, every weight bit for bit.

    Older layouts are recognized by their tensor names; no code from the model's folder is run.

    Example: weightsmith unify phi-2-orange phi-2-orange-unified
    """
    from weightsmith.commands.terminal.show_progress import show_progress
    from weightsmith.engine.unify import unify as unify_model
    from weightsmith.units import parse_shard_size, show_size

    shard_bytes = parse_shard_size(out_shard_size)
    with resumable(), show_progress(quiet=quiet) as (_, on_progress):
        summary = unify_model(
            model,
            out,
            threads=threads,
            out_shard_size=shard_bytes,
            force=force,
            restart=restart,
            to=to,
            like=like,
            mapping=mapping,
            accept_mapping=accept_mapping,
            on_progress=on_progress,
        )
    if json_:
        echo_json(summary)
    elif not quiet:
        typer.echo(
            f"{summary.out}: done already, nothing has changed since"
            if summary.done_already
            else f"{summary.out}: {summary.conversion or 'read under the names that transformers has today'}"
            + (f"; written as {to}" if to else "")
            + f"; {summary.tensors} tensors, {show_size(summary.written_bytes)} in {summary.seconds:.1f} s"
            + (f"; {summary.resumed} tensors were finished before" if summary.resumed else "")
        )
