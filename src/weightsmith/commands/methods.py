"""`weightsmith methods`."""

from __future__ import annotations

from typing import Annotated

import typer

from weightsmith.commands.terminal.json_output import AsJson, echo_json


def methods(
    name: Annotated[str | None, typer.Argument(help="One of them, in full.", show_default=False)] = None,
    json_: AsJson = False,
) -> None:
    """List the merge methods, those of installed packages too, or explain one: what it does, its paper, parameters,
    cost, advice, and an example recipe.

    Example: weightsmith methods ties
    """
    from weightsmith.files.suggestions import nearest
    from weightsmith.methods.describe import describe, facts, one_line
    from weightsmith.methods.registry import METHODS, find_method, method_names

    if name is None:
        names = method_names()
        if json_:
            echo_json([facts(METHODS[known]) for known in names])
            return
        width = max(map(len, names))
        for known in names:
            typer.echo(f"{known:{width}}  {one_line(METHODS[known])}")
        return
    method = find_method(name)
    if method is None:
        raise typer.BadParameter(f"unknown merge method {name!r}{nearest(name, method_names())}", param_hint="NAME")
    echo_json(facts(method)) if json_ else typer.echo(describe(method))
