"""`weightsmith demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weightsmith.commands.terminal.options import Force, Quiet, Threads


def demo(
    out: Annotated[Path, typer.Argument(help="The output folder of the demo.")] = Path("demo"),
    threads: Threads = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Merge three small skills into a real 135 M model, export, evaluate and report it: minutes, offline.

    Afterwards edit OUT/pipeline.yml and try your own recipe: weightsmith run OUT/pipeline.yml OUT

    Example: weightsmith demo
    """
    from weightsmith.commands.run import run_and_show
    from weightsmith.demo.run_demo import run_demo

    run_and_show(run_demo, out, threads=threads, force=force, quiet=quiet)
