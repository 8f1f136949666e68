"""Naming schemes: one data file per foreign layout says where each canonical tensor is found in it, and how.

A tensor rule is `[canonical name, foreign name]`, or with a third part that picks rows of the foreign tensor: its rows
are viewed as `view`, of each of these dimensions `take` keeps a range, and `order` permutes the dimensions. Where the
foreign part is a list, the canonical tensor is those tensors laid one under the other, with `rows` rows each.
`transpose` swaps rows and columns, `add` adds a number to each element. Names hold `{n}` for the layer (`{n+1}` where
the foreign layers count from one, `{last}` behind the last of those) and `{w}` for `weight` or `bias`. Sizes are
numbers, or the names that `dimensions` lists, with + and *. The first rule whose foreign name fits is the one that
counts, unless several take rows of it.

A scheme is detected by all that its `detect` names: a `tensor` (a regular expression), `config` or `metadata` (GGUF)
values, `keys` that config.json has (`!key`: has not), `tall`, a tensor with more rows than columns. `columns` lists the
tensors that model-parallel files split by columns; `bare_of` is a prefix that the names have here and not in files.
`docs/naming-schemes.md` is the manual.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Rule:
    """Where one canonical tensor (or one per layer) comes from."""

    to: str
    sources: tuple[str, ...]
    layout: Mapping[str, Any] | None

    @cached_property
    def patterns(self) -> tuple[re.Pattern[str], ...]:
        """Of each of `sources`. Compiled where they are asked for: of the known schemes a model needs one."""
        return tuple(re.compile(_pattern(source)[0]) for source in self.sources)

    @cached_property
    def canonical(self) -> re.Pattern[str]:
        """Of `to`."""
        return re.compile(_pattern(self.to)[0])

    @cached_property
    def shift(self) -> int:
        """The foreign layer number is the canonical one plus this."""
        return _pattern(self.sources[0])[1]


MAPPING = "mapping"  # the family of a file that a person wrote for one model


@dataclass(frozen=True)
class Scheme:
    """One foreign layout of one family."""

    family: str
    layout: str
    detect: Mapping[str, Any]
    rules: tuple[Rule, ...]
    config: Mapping[str, Any]
    columns: tuple[re.Pattern[str], ...] = ()  # what model-parallel files split by columns, the rest by rows
    bare_of: str = ""  # a prefix of the rules' foreign names that the files do not have

    @property
    def same_names(self) -> bool:
        """Only the configuration is foreign."""
        return not self.rules

    @property
    def needs_sizes(self) -> bool:
        """Whether a rule speaks of heads and the like, rather than numbers alone."""
        return any(isinstance(part, str) for rule in self.rules for part in _sizes_in(rule.layout))

    @property
    def name(self) -> str:
        return f"{self.family}/{self.layout}"


@lru_cache(maxsize=1)
def known_schemes() -> tuple[Scheme, ...]:
    """Every scheme, by file name."""
    folder = resources.files("weightsmith.models.naming") / "schemes"
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".json")), key=lambda entry: entry.name)
    return tuple(_scheme(json.loads(entry.read_text(encoding="utf-8"))) for entry in files)


def _sizes_in(layout: Any) -> list[Any]:
    if isinstance(layout, Mapping):
        layout = [value for key, value in layout.items() if key in ("view", "take", "rows")]
    return [leaf for part in layout for leaf in _sizes_in(part)] if isinstance(layout, list) else [layout]


def parse_scheme(data: Mapping[str, Any]) -> Scheme:
    """A scheme from the content of its file. Raises KeyError, TypeError, ValueError or re.error for content of another
    form."""
    scheme = _scheme(data)
    for rule in scheme.rules:
        if not rule.sources:
            raise ValueError(f"{rule.to}: comes from no tensor")
        _ = rule.patterns, rule.canonical
    return scheme


def _scheme(data: Mapping[str, Any]) -> Scheme:
    rules = tuple(_rule(*entry) for entry in data["tensors"])
    columns = tuple(re.compile(pattern) for pattern in data.get("columns", []))
    return Scheme(
        data["family"], data["layout"], data["detect"], rules, data["config"], columns, data.get("bare_of", "")
    )


def _rule(to: str, source: str | list[str], layout: Mapping[str, Any] | None = None) -> Rule:
    return Rule(to, (source,) if isinstance(source, str) else tuple(source), layout)


def _pattern(template: str) -> tuple[str, int]:
    """A template as a regular expression, and the shift of its layer numbers."""
    shift = int(shifted[1]) if (shifted := re.search(r"\{n\+(\d+)\}", template)) else 1 if "{last}" in template else 0
    parts = re.split(r"(\{n(?:\+\d+)?\}|\{last\}|\{w\})", template)
    groups = {"{w}": "(?P<w>weight|bias)", "{last}": r"(?P<last>\d+)"}
    return "".join(groups.get(p, r"(?P<n>\d+)" if p.startswith("{n") else re.escape(p)) for p in parts), shift
