"""`weightsmith weigh`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weightsmith.commands.terminal.options import Force, Quiet, Threads


def weigh(
    recipe: Annotated[Path, typer.Argument(help="A merge recipe with `models` and a base model.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The recipe to write.", show_default=False)],
    text: Annotated[str, typer.Option(help="A file of text, or `random`: tokens drawn at random.")] = "random",
    samples: Annotated[int, typer.Option(min=1, help="Windows of text that the base model reads.")] = 8,
    context: Annotated[int, typer.Option(min=2, help="Tokens in a window.")] = 64,
    strength: Annotated[float, typer.Option(help="How far weights may differ: 0 leaves them as they are.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the tokens that are drawn.")] = 0,
    threads: Threads = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write RECIPE with a weight for each layer: less of a fine-tune where the base model is sensitive (FIM-Merging).

    The base model reads some windows of text, or of random tokens, once forwards and once backwards.

    Example: weightsmith weigh ties.yml ties-weighed.yml
    """
    from weightsmith.commands.terminal.show_progress import show_progress
    from weightsmith.engine.layer_weights.weigh import weigh as weigh_layers
    from weightsmith.errors import OutputError
    from weightsmith.files.write_whole import write_whole

    if out.exists() and not force:
        raise OutputError(f"{out}: exists; choose another name, or --force", path=out)
    with show_progress(quiet=quiet) as (_, on_progress):
        weighed = weigh_layers(
            recipe,
            text=text,
            samples=samples,
            context=context,
            strength=strength,
            seed=seed,
            threads=threads,
            on_progress=on_progress,
        )
    try:
        write_whole(out, str(weighed))
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}", path=out) from error
    if not quiet:
        for entry in weighed.schema.models or []:
            of_layers = entry.parameters.get("weight")
            if isinstance(of_layers, list) and isinstance(of_layers[0], dict):
                weights = of_layers[0]["value"]
                low, high = min(weights), max(weights)
                typer.echo(f"{entry.model}: weight {low:g} to {high:g} over {len(weights)} layers")
        typer.echo(f"{out}: `weightsmith merge {out} OUT` merges with these weights")
