"""Options that several commands have, and what they do with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Worker threads. [default: one per core]")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
Restart = Annotated[bool, typer.Option("--restart", help="Discard what an interrupted run has done.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary; errors only.")]
OutShardSize = Annotated[
    str, typer.Option(help="Largest shard, such as 5GB or 500MB (decimal units; 5B, as mergekit writes it, is 5GB).")
]
AcceptMapping = Annotated[
    bool, typer.Option("--accept-mapping", help="Map unknown tensor names by the values of the weights.")
]
Questions = Annotated[
    list[Path] | None,
    typer.Option("--questions", help="JSONL with `prompt` and `target`; repeatable.", show_default=False),
]
Texts = Annotated[
    list[Path] | None,
    typer.Option("--texts", "--text", help="UTF-8 text for perplexity; repeatable.", show_default=False),
]
Data = Annotated[Path | None, typer.Option(help="A folder with the tasks' data; the hub is not asked.")]


class Precision(StrEnum):
    """What models are computed in. auto: bfloat16 where the processor multiplies it, else float32."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@contextmanager
def resumable(command: str = "the same command") -> Iterator[None]:
    """Around work that `command` can resume; Ctrl-C then prints that command."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"weightsmith: finished work is kept; resume it with {command}", err=True)
        raise


def split_commas(names: str | None) -> list[str]:
    """`a,b` as a list; empty for None."""
    return names.split(",") if names else []
