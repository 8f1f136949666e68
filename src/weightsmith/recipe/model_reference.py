"""How a recipe names a model: one line, or mergekit's long form, which is brought to one line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

_LONG, _PATH = {"model", "lora", "override_architecture"}, {"path", "revision"}
_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")


def short_reference(value: Any) -> Any:
    """`path@revision+adapter@revision` of any form that mergekit reads: that text; `{model: TEXT}`;
    `{model: {path, revision}, lora: {path, revision}, override_architecture}`. A path may begin with `~` or an
    environment variable. Raises ValueError for a mapping of other keys, and for a variable that is not set.

    >>> short_reference({"model": {"path": "owner/name", "revision": "v2"}, "lora": {"path": "adapter"}})
    'owner/name@v2+adapter'
    """
    if not isinstance(value, Mapping):
        return _expanded(value) if isinstance(value, str) else value
    if unknown := value.keys() - _LONG:
        raise ValueError(f"unknown key {min(unknown)!r}; a model has the keys {', '.join(sorted(_LONG))}")
    if value.get("model") is None:
        raise ValueError("the key 'model' is missing: `model: {path: FOLDER_OR_HUB_ID, revision: REVISION}`")
    adapter = _path(value["lora"], "lora") if value.get("lora") is not None else None
    return _path(value["model"], "model") + (f"+{adapter}" if adapter else "")


def architectures_in(tree: Any) -> Iterator[tuple[str, str]]:
    """(reference, architecture) of every long form in a recipe that overrides it."""
    if isinstance(tree, Mapping):
        if tree.get("override_architecture") and tree.keys() <= _LONG:
            yield short_reference(tree), str(tree["override_architecture"])
        for value in tree.values():
            yield from architectures_in(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from architectures_in(value)


def _path(value: Any, key: str) -> str:
    if isinstance(value, str):
        return _expanded(value)
    if not isinstance(value, Mapping) or not isinstance(value.get("path"), str):
        raise ValueError(f"{key} is {value!r}; expected a path or `{{path: PATH, revision: REVISION}}`")
    if unknown := value.keys() - _PATH:
        raise ValueError(f"unknown key {min(unknown)!r} of {key}; known: path, revision")
    revision = value.get("revision")
    return _expanded(value["path"]) + (f"@{revision}" if revision else "")


def _expanded(text: str) -> str:
    """A reference with `~` and environment variables written out. Each part that has one, base or adapter, has to
    become an absolute path: a hub id never is one, so that a recipe cannot send a variable elsewhere."""
    return "+".join(_expanded_part(part) for part in text.split("+"))


def _expanded_part(text: str) -> str:
    if not (text.startswith("~") or _VARIABLE.search(text)):
        return text
    missing = [name.strip("{}") for name in _VARIABLE.findall(text) if name.strip("{}") not in os.environ]
    if missing:
        raise ValueError(f"the environment variable {missing[0]!r} of the path {text!r} is not set")
    path = os.path.expanduser(os.path.expandvars(text))
    if not Path(path).is_absolute():
        raise ValueError(f"{text!r} is no absolute path once its variables are written out; they stand for folders")
    return path


ModelReference = Annotated[str, BeforeValidator(short_reference)]
