"""`weightsmith recipe`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from weightsmith.commands.terminal.json_output import AsJson, echo_json
from weightsmith.commands.terminal.options import AcceptMapping


class Action(StrEnum):
    """What is done with a recipe."""

    check = "check"
    show = "show"
    schema = "schema"


def recipe(
    action: Annotated[Action, typer.Argument(help="What to do.", show_default=False)],
    file: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="A merge recipe.", show_default=False)] = None,
    accept_mapping: AcceptMapping = False,
    json_: AsJson = False,
) -> None:
    """Check a recipe against its models, show its plan, or print the JSON Schema of recipes.

    `check` reads headers only, of hub models too, and prints warnings; `show` prints for every output tensor where it
    comes from and the value of each parameter; `schema` is for editors: `# yaml-language-server: $schema=FILE`.

    Example: weightsmith recipe check ties.yml
    """
    if action is Action.schema:
        import json

        from weightsmith.recipe.json_schema import recipe_json_schema

        typer.echo(json.dumps(recipe_json_schema(), indent=2))
        return
    if file is None:
        raise typer.BadParameter("is missing: the file to read", param_hint="RECIPE")
    from weightsmith.engine.stages.plan_stages import open_plan
    from weightsmith.recipe.recipe import load_recipe

    plan = open_plan(
        load_recipe(file), accept_mapping=accept_mapping, headers_only=True, to_be_run=False, state_dicts=True
    )
    if json_:
        if action is Action.show:
            raise typer.BadParameter("goes with `check`", param_hint="--json")
        found = {"method": plan.method.name, "models": list(plan.models), "tensors": len(plan.tensors)}
        echo_json(found | {"warnings": plan.warnings})
        return
    for warning in plan.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if action is Action.show:
        typer.echo(str(plan))
        return
    typer.echo(f"{file}: can be merged: {plan.method.name} of {len(plan.models)} models, {len(plan.tensors)} tensors")
