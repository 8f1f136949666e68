"""`weightsmith search`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weightsmith.commands.terminal.json_output import AsJson
from weightsmith.commands.terminal.options import Precision, Quiet, Threads, resumable

if TYPE_CHECKING:
    from weightsmith.recipe_search.search import SearchSummary


def search(
    search_file: Annotated[
        Path, typer.Argument(help="A search file (YAML): a recipe with spaces, objectives, and a sampler.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder for the study, the best recipe and the report.")],
    resume: Annotated[bool, typer.Option("--resume", help="Resume the search in OUT.")] = False,
    trials: Annotated[int | None, typer.Option(min=1, help="Number of trials. [default: the file's]")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trials that run at once, each in its own process.")] = 1,
    ray: Annotated[
        str | None, typer.Option(help="A Ray cluster that runs the trials: its address, auto, or local.")
    ] = None,
    threads: Threads = None,
    precision: Annotated[
        Precision, typer.Option(help="Compute precision: float32, bfloat16, or auto, the faster one on this processor.")
    ] = Precision.auto,
    device: Annotated[
        str,
        typer.Option(
            help="Where candidates are merged and asked: cpu, an accelerator that torch knows, such as cuda, or auto."
        ),
    ] = "cpu",
    export_top: Annotated[int, typer.Option(min=0, help="Merge the best N candidates into OUT/top-1, ...")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Discard the search in OUT.")] = False,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find the best values for the spaces in a recipe: candidates are merged in memory, scored, and compared.

    Example: weightsmith search search.yml best
    """
    from weightsmith.commands.terminal.show_progress import show_progress
    from weightsmith.engine.merge import merge as merge_models
    from weightsmith.recipe_search.report.search_results import write_top
    from weightsmith.recipe_search.search import search as search_recipes

    command = "the same command and --resume"
    with resumable(command), show_progress(quiet=quiet) as (log, on_progress):
        summary = search_recipes(
            search_file,
            out,
            workers=workers,
            ray=ray,
            threads=threads,
            precision=precision.value,
            device=device,
            trials=trials,
            resume=resume,
            force=force,
            log=log,
            on_progress=on_progress,
        )
    for number, recipe in enumerate(write_top(out, search_file, summary.trials, export_top), start=1):
        merge_models(recipe, out / f"top-{number}", threads=threads, force=True)
    if json_:
        typer.echo((out / "summary.json").read_text(encoding="utf-8").rstrip())
    elif not quiet:
        _show_search(summary, export_top)


def _show_search(summary: SearchSummary, top: int) -> None:
    """The winner and what it is compared with, and where the rest is."""
    from rich.table import Table

    from weightsmith.commands.terminal.tables import plain_console

    table = Table(title="search / held out")
    titles = ("", *(f"{o.name}, {o.metric}" for o in summary.objectives), "score", "the winner is (p, Holm)")
    for title in titles:
        table.add_column(title, justify="left" if not title else "right")
    verdicts = {gain.other: f"{gain.verdict} ({_p_value(gain.p_holm)})" for gain in summary.final.gains}
    for candidate in summary.final.candidates:
        table.add_row(candidate.label, *candidate.shown(summary.objectives), verdicts.get(candidate.label, ""))
    plain_console().print(table)
    if summary.best.default:
        typer.echo("no candidate was better than the best default recipe")
    elif summary.final.within_noise:
        typer.echo(
            "the gain over the best default recipe is within noise: with this many questions, chance alone can "
            "produce it"
        )
    files = ", ".join(path.name for path in summary.files)
    typer.echo(
        f"{summary.out}: candidate {summary.best.number} of {len(summary.trials)} in {summary.seconds:.0f} s; {files}"
    )
    if top:
        typer.echo(f"merged: {', '.join(f'top-{k + 1}' for k in range(top))}")


def _p_value(p: float) -> str:
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"
