"""`weightsmith methods`."""

from __future__ import annotations

from typing import Annotated

import typer


def methods(
    name: Annotated[str | None, typer.Argument(help="One of them, in full.", show_default=False)] = None,
) -> None:
    """List the merge methods, those of installed packages too, or explain one: what it does, its paper, parameters,
    cost, advice, and an example recipe.

    Example: weightsmith methods ties
    """
    from weightsmith.files.suggestions import nearest
    from weightsmith.methods.describe import describe, one_line
    from weightsmith.methods.registry import METHODS, find_method, method_names

    if name is None:
        names = method_names()
        width = max(map(len, names))
        for known in names:
            typer.echo(f"{known:{width}}  {one_line(METHODS[known])}")
        return
    method = find_method(name)
    if method is None:
        raise typer.BadParameter(f"unknown merge method {name!r}{nearest(name, method_names())}", param_hint="NAME")
    typer.echo(describe(method))
