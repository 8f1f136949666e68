"""`weightsmith clean`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from weightsmith.errors import WeightsmithError


def clean(
    out: Annotated[Path, typer.Argument(help="A folder that `weightsmith export` wrote to.")],
    keep: Annotated[list[str], typer.Option(help="A type to keep, such as q4_k_m; repeatable.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove the files of an export except those of the types named with --keep. Lists them with their sizes first.

    Example: weightsmith clean gguf --keep q4_k_m
    """
    from weightsmith.gguf.clean import removable, remove
    from weightsmith.units import show_size

    entries = removable(out, keep)
    for entry in entries:
        typer.echo(f"{out / entry.file}: {show_size(entry.bytes)}")
    total = show_size(sum(entry.bytes for entry in entries))
    if not entries:
        typer.echo(f"{out}: nothing to remove")
        return
    if not yes:
        if not sys.stdin.isatty():
            raise WeightsmithError(f"{total} in {len(entries)} files would be removed; confirm with --yes")
        typer.confirm(f"remove {total} in {len(entries)} files?", abort=True)
    remove(out, entries)
    typer.echo(f"{out}: {total} in {len(entries)} files removed")
