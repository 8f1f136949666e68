"""`weightsmith init`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from weightsmith.commands.terminal.options import Force


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The recipe, or pipeline, to write.")],
    base: Annotated[str | None, typer.Option(help="The base model.", show_default=False)] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="A fine-tune, or an adapter of the base; repeatable.", show_default=False),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="The merge method (`weightsmith methods` lists them).", show_default=False)
    ] = None,
    gguf: Annotated[
        list[str] | None, typer.Option(help="Write a pipeline that exports this type too; repeatable.")
    ] = None,
    questions: Annotated[
        list[Path] | None, typer.Option("--questions", help="Write a pipeline that asks these too; repeatable.")
    ] = None,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Open the models first: do they fit?")] = True,
    force: Force = False,
) -> None:
    """Write a first recipe, or a pipeline, for your models; what is not given as an option is asked.

    The parameters that have a default stand in comments, each with what it does. The models are opened, from headers
    alone, and what does not fit is said before anything is written.

    Example: weightsmith init recipe.yml --base phi-2 --model phi-2-coder --model phi-2-chat --method ties
    """
    from weightsmith.engine.stages.plan_stages import open_plan
    from weightsmith.errors import OutputError, RecipeError
    from weightsmith.files.inputs.yaml_file import parse_yaml
    from weightsmith.files.suggestions import nearest
    from weightsmith.files.write_whole import write_whole
    from weightsmith.methods.registry import find_method, method_names
    from weightsmith.models.find_model import is_adapter
    from weightsmith.recipe.draft_recipe import draft_pipeline, draft_recipe
    from weightsmith.recipe.recipe import Recipe

    if (file.exists() or file.is_symlink()) and not force:
        raise OutputError(f"{file}: exists; choose another name, or replace it with --force", path=file)
    if not file.absolute().parent.is_dir():
        raise OutputError(f"{file.parent}: no such folder", path=file)
    if base is None:
        base = _asked("The base model (a folder, a GGUF file or a hub id; empty: none)", "", "--base", needed=False)
    models = models or _asked("The fine-tunes, with spaces between them", None, "--model").split()
    if base:
        adapters = [model for model in models if (check or Path(model).exists()) and is_adapter(model, None)]
        for model in adapters:
            typer.echo(f"{model}: an adapter; it goes onto the base", err=True)
        models = [f"{base}+{model}" if model in adapters else model for model in models]
    method = method or _asked("The merge method", "ties" if base else "linear", "--method")
    known = find_method(method)
    if known is None:
        raise RecipeError(f"unknown merge method {method!r}{nearest(method, method_names())}")
    text = draft_recipe(known, models, base or None)
    recipe = Recipe.from_yaml(parse_yaml(file, text))
    if check:
        for warning in open_plan(recipe, headers_only=True, to_be_run=False, state_dicts=True).warnings:
            typer.echo(f"warning: {warning}", err=True)
    if gguf or questions:
        text = draft_pipeline(text, gguf or [], [str(path) for path in questions or []], base or None, models)
        write_whole(file, text)
        typer.echo(f"{file}: a pipeline; run it: weightsmith run {file} {file.with_suffix('')}")
    else:
        write_whole(file, text)
        typer.echo(f"{file}: a recipe; run it: weightsmith merge {file} {file.with_suffix('')}")


def _asked(question: str, default: str | None, option: str, *, needed: bool = True) -> str:
    """The answer of a person; without one at hand, the default of what need not be given."""
    if not sys.stdin.isatty():
        if needed and default is None:
            raise typer.BadParameter("is missing, and there is nobody to ask", param_hint=option)
        return default or ""
    return typer.prompt(question, default=default, show_default=bool(default))
