"""`weightsmith push`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weightsmith.commands.terminal.json_output import AsJson, echo_json
from weightsmith.commands.terminal.options import Quiet

if TYPE_CHECKING:
    from weightsmith.publishing.push import PushSummary


def push(
    out: Annotated[Path, typer.Argument(help="The folder of a merge, an export or a run.")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The model on the hub; made if it is new.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new model private.")] = False,
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Of the GGUF files, only those of this type; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go; send nothing.")] = False,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Upload a model with its card to the Hugging Face hub: weights, tokenizer, GGUF files, results.

    Log in first with `hf auth login`, or set HF_TOKEN. What was interrupted is continued by the same command. The
    folder of a run becomes one model with its GGUF files, so that `ollama run hf.co/OWNER/NAME:Q4_K_M` works. What is
    about this machine stays here: manifests, caches, the paths of the recipe.

    Example: weightsmith push out me/my-merge --private
    """
    from weightsmith.publishing.push import push as push_folder

    summary = push_folder(out, repo, private=private, types=types or (), dry_run=dry_run)
    for warning in summary.files.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if json_:
        echo_json(summary)
    elif not quiet:
        _show(summary)


def _show(summary: PushSummary) -> None:
    from weightsmith.units import show_size

    files = summary.files
    if summary.url is None:
        sizes = {name: path.stat().st_size for name, path in files.files.items()}
        sizes |= {name: len(text.encode()) for name, text in files.texts.items()}
        for name, size in sorted(sizes.items()):
            typer.echo(f"{name}: {show_size(size)}")
    for name, reason in sorted(files.left_out.items()):
        typer.echo(f"{name}: stays here, it {reason}")
    count = len(files.files) + len(files.texts)
    what = f"{count} files, {show_size(files.nbytes)}"
    if summary.url is None:
        typer.echo(f"{summary.repo}: {what} would be uploaded")
    else:
        typer.echo(f"{summary.url}: {what}")
