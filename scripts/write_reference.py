"""Writes docs/reference/ from the code: commands from their help, methods and recipe keys from their declarations.

Run it after you change one of them: `.venv/bin/python scripts/write_reference.py`. A test compares.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from weightsmith.commands.app import app
from weightsmith.methods.describe import SCOPES, documentation
from weightsmith.methods.method import REQUIRED, Method
from weightsmith.methods.registry import METHODS
from weightsmith.recipe.parameters import expected_of
from weightsmith.recipe.recipe_schema import ModelEntry, Module, RecipeSchema, Slice, SliceSource, Tokenizer, TokenRule

REFERENCE = Path(__file__).parents[1] / "docs/reference"


def commands_page() -> str:
    group = typer.main.get_command(app)
    lines = ["# Commands", "", "What `weightsmith COMMAND --help` says."]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        context = typer.Context(command, info_name=name, parent=typer.Context(group, info_name="weightsmith"))
        lines += ["", f"## weightsmith {name}", "", *_paragraphs(command.help or "")]
        rows = [_parameter_row(parameter, context) for parameter in command.params if parameter.name != "help"]
        lines += ["", "| | |", "| --- | --- |", *rows]
    return "\n".join(lines) + "\n"


def _paragraphs(text: str) -> Iterator[str]:
    """A help text; its example in a block of its own."""
    for number, paragraph in enumerate(cleandoc(text).split("\n\n")):
        if number:
            yield ""
        line = " ".join(paragraph.split())
        if line.startswith("Example: "):
            yield from ("```console", f"$ {line.removeprefix('Example: ')}", "```")
        else:
            yield line


def _parameter_row(parameter, context) -> str:
    names, text = parameter.get_help_record(context) or ("", "")
    return f"| `{names}` | {_cell(text)} |"


def methods_page() -> str:
    lines = ["# Merge methods", "", "The value of `merge_method` in a recipe, and the `parameters` that go with it."]
    for method in METHODS.values():
        lines += ["", f"## {method.name}", "", *_about(method), "", *_parameter_table(method)]
    return "\n".join(lines) + "\n"


def _about(method: Method) -> Iterator[str]:
    yield " ".join(documentation(method).split())
    base = "with a base model" if method.needs_base else "no base model needed"
    yield ""
    yield f"Paper: <{method.paper}>. Models: {method.input_count}, {base}."


def _parameter_table(method: Method) -> Iterator[str]:
    if not method.parameters:
        yield "No parameters."
        return
    yield from ("| parameter | of | type | default | meaning |", "| --- | --- | --- | --- | --- |")
    for parameter in method.parameters:
        default = _default(parameter.default)
        bounds = f", above {parameter.above:g} and at most {parameter.at_most:g}" if parameter.above is not None else ""
        kind = expected_of(parameter).removeprefix("a ")
        yield f"| `{parameter.name}` | {SCOPES[parameter.scope]} | {kind} | {default} | {parameter.doc}{bounds} |"


def _default(value: object) -> str:
    if value is REQUIRED:
        return "required"
    return "" if value is None else f"{value}".lower()


def recipe_page() -> str:
    lines = ["# Recipe keys", "", "A recipe has exactly one of `models`, `slices` and `modules`."]
    sections = {
        "The recipe": RecipeSchema,
        "An entry of models": ModelEntry,
        "An entry of slices": Slice,
        "An entry of a slice's sources": SliceSource,
        "An entry of modules": Module,
        "tokenizer": Tokenizer,
        "An entry of tokenizer's tokens": TokenRule,
    }
    for title, schema in sections.items():
        lines += ["", f"## {title}", "", *_key_table(schema)]
    lines += ["", "## Values of parameters", "", *_values_of_parameters()]
    return "\n".join(lines) + "\n"


def _key_table(schema: type[BaseModel]) -> Iterator[str]:
    yield from ("| key | default | meaning |", "| --- | --- | --- |")
    for name, field in schema.model_fields.items():
        if field.is_required():
            default = "required"
        elif field.default in (None, PydanticUndefined):
            default = ""
        else:
            default = f"`{field.default}`".lower()
        yield f"| `{name}` | {default} | {_cell(field.description or '')} |"


def _values_of_parameters() -> Iterator[str]:
    from weightsmith.recipe import parameters

    yield " ".join(cleandoc(parameters.__doc__ or "").split("\n\n")[1].split())


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


PAGES = {"commands.md": commands_page, "methods.md": methods_page, "recipe.md": recipe_page}


def main() -> None:
    REFERENCE.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")
        print(f"{REFERENCE / name}", file=sys.stderr)


if __name__ == "__main__":
    main()
