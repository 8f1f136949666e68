"""The command line: `weightsmith COMMAND`. Every file beside this one is a command; each imports what it needs when it
runs, so that --help is fast."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Annotated

import typer
from typer.core import TyperCommand

from weightsmith import commands
from weightsmith.commands.terminal.last_resort import ensure_standard_streams, exit_code_of

app = typer.Typer(
    name="weightsmith",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def command_names() -> list[str]:
    """The commands, by the names of their files."""
    return sorted(module.name for module in iter_modules(commands.__path__) if module.name not in ("app", "terminal"))


def _show_version(asked: bool) -> None:
    if asked:
        from weightsmith.version import __version__

        typer.echo(f"weightsmith {__version__}")
        raise typer.Exit


@app.callback(help="Merge language models: one recipe in, a merged, converted and evaluated model out.")
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    pass


def _paragraphs(function: Callable[..., None]) -> list[str]:
    """Of the docstring, each on one line; not by `inspect`, whose import takes 10 ms."""
    return [" ".join(paragraph.split()) for paragraph in (function.__doc__ or "").split("\n\n")]


def _help(function: Callable[..., None]) -> str:
    """The docstring, its example first: what most readers look for."""
    return "\n\n".join(sorted(_paragraphs(function), key=lambda paragraph: not paragraph.startswith("Example: ")))


for _name in command_names():
    _module = import_module(f"weightsmith.commands.{_name}")
    _function, _class = getattr(_module, _name), getattr(_module, "CLASS", TyperCommand)
    app.command(help=_help(_function), short_help=_paragraphs(_function)[0], cls=_class)(_function)


def main() -> None:
    """Exit 0 done, 2 bad input or usage, 130 interrupted, 141 where nobody reads what is printed, 1 our bug."""
    ensure_standard_streams()
    try:
        app()
        sys.stdout.flush()
    except SystemExit as end:
        if end.code == 130:  # typer's own answer to Ctrl-C
            typer.echo("weightsmith: interrupted", err=True)
        raise
    except Exception as error:
        sys.exit(exit_code_of(error, debug="--debug" in sys.argv[1:]))


if __name__ == "__main__":
    main()
