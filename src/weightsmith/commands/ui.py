"""`weightsmith ui`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def ui(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders with models and questions. [default: this one]", show_default=False),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where the page keeps its runs.")] = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of 127.0.0.1; 0: any that is free.")] = 7860,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in your browser.")] = True,
) -> None:
    """Merge in a page of your browser: choose models, edit the recipe, start and watch runs, read reports.

    The page is served to this machine alone, and asks for the token in the address that is printed. It reads nothing
    but the folders given here and its runs. Each run is a folder of `weightsmith run`; it goes on when the page is
    closed or this command ends.

    Example: weightsmith ui models
    """
    from weightsmith.page.page_server import serve_page

    def ready(address: str) -> None:
        typer.echo(f"the page: {address}\nruns are kept in {runs}; Ctrl-C ends the page, not what runs")
        if browser:
            import webbrowser

            webbrowser.open(address)

    serve_page(folders or [Path()], runs, port=port, on_ready=ready)
