"""What a command found, as JSON on standard output, for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output, instead of text.")]


def echo_json(found: Any) -> None:
    """Print it; progress and warnings are on standard error."""
    typer.echo(json.dumps(as_json(found), indent=2, ensure_ascii=False, allow_nan=False))


def as_json(found: Any) -> Any:
    """Dataclasses become objects, paths texts, and numbers that JSON lacks null. Raises TypeError for what has no form
    in it.

    >>> as_json({"out": Path("merged"), "loss": math.nan})
    {'out': 'merged', 'loss': None}
    """
    if is_dataclass(found) and not isinstance(found, type):
        return {field.name: as_json(getattr(found, field.name)) for field in fields(found)}
    if isinstance(found, Enum):
        return as_json(found.value)
    if isinstance(found, Mapping):
        return {str(key): as_json(value) for key, value in found.items()}
    if isinstance(found, (list, tuple, set, frozenset)):
        return [as_json(value) for value in (sorted(found) if isinstance(found, (set, frozenset)) else found)]
    if isinstance(found, float):
        return found if math.isfinite(found) else None
    if found is None or isinstance(found, (bool, int, str)):
        return found
    if isinstance(found, Path):
        return str(found)
    raise TypeError(f"{type(found).__name__} has no form in JSON")
