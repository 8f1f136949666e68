"""`weightsmith run`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightsmith.commands.terminal.json_output import AsJson, echo_json
from weightsmith.commands.terminal.options import Force, Quiet, Threads

if TYPE_CHECKING:
    from weightsmith.pipeline.run import RunSummary


def run(
    pipeline: Annotated[Path, typer.Argument(help="A pipeline file (YAML): merge, export, evaluate, report.")],
    out: Annotated[Path, typer.Argument(help="The output folder of the run.")],
    threads: Threads = None,
    force: Force = False,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Merge, export, evaluate and report from one file. Stages that have not changed since the last run are reused.

    Example: weightsmith run pipeline.yml out
    """
    from weightsmith.pipeline.run import run as run_pipeline

    run_and_show(run_pipeline, pipeline, out, threads=threads, force=force, json_=json_, quiet=quiet)


def run_and_show(
    work: Callable[..., RunSummary], *arguments: Path, quiet: bool, json_: bool = False, **options: Any
) -> None:
    """Run a pipeline with progress, then print its scores and what was done."""
    from weightsmith.commands.terminal.show_progress import show_progress

    with show_progress(quiet=quiet) as (log, on_progress):
        summary = work(*arguments, log=log, on_progress=on_progress, **options)
    if json_:
        echo_json(summary)
        return
    if summary.evaluation:
        typer.echo(summary.evaluation.to_markdown())
    if not quiet:
        fresh = [stage for stage in summary.stages if not stage.reused]
        typer.echo(
            f"{summary.out}: {len(fresh)} of {len(summary.stages)} stages done in {sum(s.seconds for s in fresh):.0f} "
            "s, the others reused" + (f"; report: {summary.report}" if summary.report else "")
        )
