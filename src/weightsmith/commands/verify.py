"""`weightsmith verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weightsmith.commands.terminal.json_output import AsJson, echo_json
from weightsmith.commands.terminal.options import Quiet, Threads
from weightsmith.errors import WeightsmithError


def verify(
    out: Annotated[Path, typer.Argument(help="A folder written by `weightsmith merge` or `unify`.")],
    threads: Threads = None,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Read merged weights again and compare them with the checksums noted when they were written.

    Exit code 0: all as written. 2: damaged, and the tensors are named.

    Example: weightsmith verify merged
    """
    from weightsmith.commands.terminal.show_progress import show_progress
    from weightsmith.engine.verify import verify as verify_folder
    from weightsmith.machine import available_cores
    from weightsmith.units import show_size

    with show_progress(quiet=quiet) as (_, on_progress):
        result = verify_folder(out, threads=threads or available_cores(), on_progress=on_progress)
    if json_:
        echo_json(result)
    if not result.sound:
        problems = ((result.damaged, "damaged"), (result.missing, "missing"), (result.extra, "not of the merge"))
        listed = "; ".join(f"{len(names)} tensors {what}: {', '.join(names[:5])}" for names, what in problems if names)
        raise WeightsmithError(f"{out}: {listed}. Merge again, or copy the folder again from an intact copy", path=out)
    if not (quiet or json_):
        typer.echo(f"{out}: {result.tensors} tensors, {show_size(result.bytes)}, all unchanged since they were written")
