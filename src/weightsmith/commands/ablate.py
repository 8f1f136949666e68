"""`weightsmith ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weightsmith.commands.terminal.json_output import AsJson, echo_json
from weightsmith.commands.terminal.options import (
    Data,
    Force,
    Precision,
    Questions,
    Quiet,
    Texts,
    Threads,
    resumable,
    split_commas,
)


def ablate(
    recipe: Annotated[Path, typer.Argument(help="A merge recipe whose models have weights.")],
    out: Annotated[Path, typer.Argument(help="The folder for the heat map and the table.")],
    questions: Questions = None,
    texts: Texts = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="Of --questions: exact_match, or perplexity of the right answers, which tells more with few."
        ),
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks of lm-evaluation-harness, separated by commas.")] = None,
    data: Data = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Number of questions per task or file.")] = None,
    blocks: Annotated[int, typer.Option(min=1, help="How many blocks the layers are divided into.")] = 6,
    threads: Threads = None,
    precision: Annotated[
        Precision, typer.Option(help="Compute precision: float32, bfloat16, or auto, the faster one on this processor.")
    ] = Precision.auto,
    force: Force = False,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Which layers of which model carry which skill: leave each model out of each block of layers and measure the loss.

    Example: weightsmith ablate best.yml ablation --questions dates.jsonl --text novel.txt
    """
    from weightsmith.commands.terminal.show_progress import show_progress
    from weightsmith.recipe_search.ablate import ablate as ablate_recipe

    with resumable(), show_progress(quiet=quiet) as (log, on_progress):
        result = ablate_recipe(
            recipe,
            out,
            questions=[str(path) for path in questions or ()],
            texts=[str(path) for path in texts or ()],
            metric=metric,
            tasks=split_commas(tasks),
            data=data,
            limit=limit,
            blocks=blocks,
            threads=threads,
            precision=precision.value,
            force=force,
            log=log,
            on_progress=on_progress,
        )
    if json_:
        objectives = [{"name": one.name, "metric": one.metric} for one in result.objectives]
        keys = ("blocks", "whole", "without", "p", "files")
        echo_json({"objectives": objectives} | {key: getattr(result, key) for key in keys})
    elif not quiet:
        typer.echo(", ".join(str(path) for path in result.files))
