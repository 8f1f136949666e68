"""Naming schemes: one data file per foreign layout says where each canonical tensor is found in it, and how.

A tensor rule is `[canonical name, foreign name]`, or with a third part that picks rows of the foreign tensor: its rows are
viewed as `view`, of each of these dimensions `take` keeps a range, and `order` permutes the dimensions. Where the foreign
part is a list, the canonical tensor is those tensors laid one under the other, with `rows` rows each. `transpose` swaps rows
and columns, `add` adds a number to each element. Names hold `{n}` for the layer (`{n+1}` where the foreign layers count from
one, `{last}` behind the last of those) and `{w}` for `weight` or `bias`. Sizes are numbers, or the names that `dimensions`
lists, with + and *. The first rule whose foreign name fits is the one that counts, unless several take rows of it.

A scheme is detected by all that its `detect` names: a `tensor` (a regular expression), `config` or `metadata` (GGUF) values,
`keys` that config.json has (`!key`: has not), `tall`, a tensor with more rows than columns. `columns` lists the tensors that
model-parallel files split by columns; `bare_of` is a prefix that the names have here and not in files. `docs/naming-schemes.md` is the manual.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.architecture.row_map import RowMap, invert
from weightsmith.architecture.wrapped_names import is_buffer
from weightsmith.checkpoint.tensor import TensorInfo
from weightsmith.errors import CheckpointError

Config = dict[str, Any]
_GGUF_LIKE = {"mistral": "llama"}  # model types whose GGUF files are laid out as another's


@dataclass(frozen=True)
class Rule:
    """Where one canonical tensor (or one per layer) comes from."""

    to: str
    sources: tuple[str, ...]
    layout: Mapping[str, Any] | None
    patterns: tuple[re.Pattern[str], ...]
    canonical: re.Pattern[str]
    shift: int  # the foreign layer number is the canonical one plus this


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
    folder = resources.files("weightsmith.architecture") / "schemes"
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".json")), key=lambda entry: entry.name)
    return tuple(parse_scheme(json.loads(entry.read_text(encoding="utf-8"))) for entry in files)


def schemes_of(config: Config) -> list[Scheme]:
    """The layouts that models of `config`'s type have been published in."""
    kind = config.get("model_type")
    same = _GGUF_LIKE.get(str(kind))
    kinds = [(scheme, scheme.config["set"].get("model_type")) for scheme in known_schemes()]
    return [scheme for scheme, own in kinds if own == kind or (scheme.layout == "gguf" and own == same)]


def detect_scheme(
    names: Mapping[str, TensorInfo], *, config: Config | None = None, metadata: Mapping[str, Any] | None = None
) -> Scheme | None:
    """The scheme of a checkpoint: by its tensors' names and config.json, or by a GGUF file's metadata. None: canonical, or
    unknown."""
    for scheme in known_schemes():
        told = {"config": config or {}, "metadata": metadata or {}}
        fits = all(told[where].get(k) == v for where in told for k, v in scheme.detect.get(where, {}).items())
        fits = fits and all(
            (key.lstrip("!") in told["config"]) != key.startswith("!") for key in scheme.detect.get("keys", [])
        )
        pattern, tall = scheme.detect.get("tensor"), scheme.detect.get("tall")
        if (
            fits
            and (pattern is None or any(re.fullmatch(pattern, name) for name in names))
            and (
                tall is None
                or any(re.fullmatch(tall, name) and info.shape[0] > info.shape[-1] for name, info in names.items())
            )
        ):
            return scheme
    return None


def map_rows(
    scheme: Scheme, path: Path, tensors: Mapping[str, TensorInfo], config: Config, *, layers: int | None = None
) -> tuple[dict[str, RowMap], tuple[str, ...]]:
    """(canonical name -> where its rows lie, foreign tensors that are left out by name).

    `config` is the canonical one; `layers` is given where it does not tell their number. Raises CheckpointError for a tensor the scheme does not know and for rows that do not divide.
    """
    if scheme.same_names:
        return {name: RowMap((name,)) for name in tensors}, ()
    sizes = dimensions(config) if scheme.needs_sizes else {}
    layers = layer_count(config) if layers is None else layers
    maps: dict[str, RowMap] = {}
    ignored = []
    for source, info in tensors.items():
        matches = [(rule, m) for rule in scheme.rules for p in rule.patterns if (m := p.fullmatch(source))]
        hits = [(rule, match) for rule, match in matches if _in_range(rule, match, layers)]
        if not hits:
            if matches:
                raise CheckpointError(
                    f"{path}: tensor {source!r} lies outside the {layers} layers that config.json tells of; one of them is "
                    "of another model, download both again"
                )
            if is_buffer(source, info):
                ignored.append(source)
                continue
            raise CheckpointError(
                f"{path}: tensor {source!r} has no place in the layout {scheme.name}, which the other names are of; if two layouts are "
                "mixed in it, remove the files of one, else download it again"
            )
        for rule, match in hits:
            found = match.groupdict()
            number = int(found["n"]) - rule.shift if "n" in found else 0
            name = _fill(rule.to, number, found.get("w"), layers, 0)
            sources = tuple(_fill(part, number, found.get("w"), layers, rule.shift) for part in rule.sources)
            if name in maps and maps[name].sources != sources:
                raise CheckpointError(
                    f"{path}: tensors {maps[name].sources[0]!r} and {source!r} are both {name!r}; remove the one that is not of this "
                    "model"
                )
            layout = rule.layout or {}
            transposed, add = layout.get("transpose", False), layout.get("add", 0.0)
            maps[name] = RowMap(sources, _rows(rule, path, source, info, sizes), transposed, add)
    for name, row_map in maps.items():
        for source in row_map.sources:
            if source not in tensors:
                raise CheckpointError(
                    f"{path}: tensor {source!r} is missing, which {name!r} is made of; download it again"
                )
    return maps, tuple(ignored)


def map_rows_back(scheme: Scheme, path: Path, tensors: Mapping[str, TensorInfo], config: Config) -> dict[str, RowMap]:
    """Foreign name -> where its rows lie in canonical tensors. Raises CheckpointError for a tensor the layout has no place for,
    or a foreign tensor that the canonical ones do not fill.
    """
    if scheme.same_names:
        return {name: RowMap((name,)) for name in tensors}
    sizes, layers = dimensions(config) if scheme.needs_sizes else {}, layer_count(config)
    maps: dict[str, RowMap] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, info in tensors.items():
        for rule in scheme.rules:
            if match := rule.canonical.fullmatch(name):
                break
        else:
            raise CheckpointError(f"{path}: tensor {name!r} has no place in the layout {scheme.name}")
        found = match.groupdict()
        number = int(found.get("n", 0))
        sources = tuple(_fill(part, number, found.get("w"), layers, rule.shift) for part in rule.sources)
        layout = rule.layout or {}
        transposed = layout.get("transpose", False)
        if transposed or not layout.keys() & {"rows", "view"}:
            wholes = [info.shape[0]] if info.shape else [1]
        elif "rows" in layout:
            wholes = [size(part, sizes) for part in layout["rows"]]
        else:
            wholes = [math.prod(size(part, sizes) for part in layout["view"])]
        for source, whole in zip(sources, wholes, strict=True):
            shapes[source] = (whole, *info.shape[1:]) if info.shape else ()
        rows = _rows(rule, path, sources[0], TensorInfo(shapes[sources[0]], info.dtype), sizes)
        count = sum(wholes) if rows is None else len(rows)
        if info.shape and count != info.shape[0]:
            raise CheckpointError(f"{path}: tensor {name!r} has {info.shape[0]} rows, config.json asks for {count}")
        maps[name] = RowMap(sources, rows, transposed, layout.get("add", 0.0))
    try:
        return {name.removeprefix(scheme.bare_of): one for name, one in invert(maps, shapes).items()}
    except ValueError as error:
        raise CheckpointError(f"{path}: cannot be written as {scheme.name}: {error}") from error


def scheme_named(name: str, config: Config | None = None) -> Scheme:
    """The layout `phi-msft` or `phi/phi-msft` of safetensors folders; where several families have one of the name, that of
    `config`'s. Raises CheckpointError with the names there are."""
    known = [scheme for scheme in known_schemes() if "metadata" not in scheme.detect]
    named = [scheme for scheme in known if name in (scheme.layout, scheme.name)]
    family = (config or {}).get("model_type")
    for scheme in sorted(named, key=lambda scheme: scheme.config["set"].get("model_type") != family):
        return scheme
    raise CheckpointError(f"unknown layout {name!r}; known: bare, {', '.join(scheme.name for scheme in known)}")


def _sizes_in(layout: Any) -> list[Any]:
    if isinstance(layout, Mapping):
        layout = [value for key, value in layout.items() if key in ("view", "take", "rows")]
    return [leaf for part in layout for leaf in _sizes_in(part)] if isinstance(layout, list) else [layout]


def _fill(template: str, number: int, kind: str | None, layers: int, shift: int) -> str:
    """A template with a layer's number, `weight` or `bias`, and the number behind the last layer put in."""
    name = template.replace("{w}", kind or "").replace("{last}", str(layers + shift))
    return re.sub(r"\{n(\+\d+)?\}", str(number + shift), name)


def _in_range(rule: Rule, match: re.Match[str], layers: int) -> bool:
    found = match.groupdict()
    if "last" in found:
        return int(found["last"]) == layers + rule.shift
    return "n" not in found or 0 <= int(found["n"]) - rule.shift < layers


def dimensions(config: Config) -> dict[str, int]:
    """Sizes that schemes speak of, from a canonical configuration."""
    heads = first_of(config, "num_attention_heads", "n_head", "n_heads")
    hidden = first_of(config, "hidden_size", "n_embd", "d_model")
    head = config.get("head_dim") or hidden // heads
    key_value = config.get("num_key_value_heads") or heads
    return {
        "heads": heads,
        "kv_heads": key_value,
        "group": heads // key_value,
        "head_dim": head,
        "half_head": head // 2,
        "hidden": hidden,
        "intermediate": config.get("intermediate_size") or 0,
    }


def layer_count(config: Config) -> int:
    return first_of(config, "num_hidden_layers", "n_layer", "n_layers")


def first_of(config: Config, *keys: str) -> int:
    """The value of the first of `keys` that is there: families spell the same number differently. Raises CheckpointError."""
    for key in keys:
        if type(config.get(key)) is int and config[key] > 0:
            return config[key]
    raise CheckpointError(f"config.json has no number under {' or '.join(keys)}")


def size(expression: int | str, sizes: Mapping[str, int]) -> int:
    """`heads+2*kv_heads` as a number."""
    if isinstance(expression, int):
        return expression
    terms = (term.split("*") for term in expression.split("+"))
    return sum(math.prod(int(f) if f.strip().isdigit() else sizes[f.strip()] for f in term) for term in terms)


def _rows(rule: Rule, path: Path, source: str, info: TensorInfo, sizes: Mapping[str, int]) -> np.ndarray | None:
    if rule.layout is None or "view" not in rule.layout:
        return None
    view = [size(part, sizes) for part in rule.layout["view"]]
    if not info.shape or math.prod(view) != info.shape[0]:
        raise CheckpointError(
            f"{path}: tensor {source!r} has the shape {list(info.shape)}; its rows do not divide into "
            f"{' x '.join(map(str, rule.layout['view']))} = {' x '.join(map(str, view))}, which config.json asks for; one of them is of "
            "another model, download both again"
        )
    rows = np.arange(info.shape[0]).reshape(view)
    for axis, kept in enumerate(rule.layout.get("take", [])):
        if kept is not None:
            rows = rows.take(range(size(kept[0], sizes), size(kept[1], sizes)), axis=axis)
    return rows.transpose(rule.layout.get("order", range(rows.ndim))).reshape(-1)


def parse_scheme(data: Mapping[str, Any]) -> Scheme:
    """A scheme from the content of its file. Raises KeyError, TypeError or re.error for content of another form."""
    rules = tuple(_rule(*entry) for entry in data["tensors"])
    columns = tuple(re.compile(pattern) for pattern in data.get("columns", []))
    return Scheme(
        data["family"], data["layout"], data["detect"], rules, data["config"], columns, data.get("bare_of", "")
    )


def _rule(to: str, source: str | list[str], layout: Mapping[str, Any] | None = None) -> Rule:
    sources = (source,) if isinstance(source, str) else tuple(source)
    patterns, shifts = zip(*map(_pattern, sources), strict=True)
    return Rule(to, sources, layout, patterns, _pattern(to)[0], shifts[0])


def _pattern(template: str) -> tuple[re.Pattern[str], int]:
    """A template as a regular expression, and the shift of its layer numbers."""
    shift = int(found[1]) if (found := re.search(r"\{n\+(\d+)\}", template)) else 1 if "{last}" in template else 0
    parts = re.split(r"(\{n(?:\+\d+)?\}|\{last\}|\{w\})", template)
    groups = {"{w}": "(?P<w>weight|bias)", "{last}": r"(?P<last>\d+)"}
    text = "".join(groups.get(p, r"(?P<n>\d+)" if p.startswith("{n") else re.escape(p)) for p in parts)
    return re.compile(text), shift
