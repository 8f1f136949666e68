"""Where each tensor lies in a checkpoint of another layout, and the way back."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from weightsmith.checkpoint.checkpoint import TensorInfo
from weightsmith.checkpoint.views.row_mapped import RowMap
from weightsmith.errors import CheckpointError
from weightsmith.models.companion_files import config_of
from weightsmith.models.naming.dimensions import Config, dimensions, evaluate_size, layer_count
from weightsmith.models.naming.left_out import buffer_reason
from weightsmith.models.naming.row_map import invert
from weightsmith.models.naming.scheme import MAPPING, Rule, Scheme


def map_rows(
    scheme: Scheme, path: Path, tensors: Mapping[str, TensorInfo], config: Config, *, layers: int | None = None
) -> tuple[dict[str, RowMap], dict[str, str]]:
    """(canonical name -> where its rows lie, foreign tensors that are left out -> why).

    `config` is the canonical one; `layers` is given where it does not say their number. Raises CheckpointError for a
    tensor that the scheme does not know and for rows that do not divide.
    """
    if scheme.same_names:
        return {name: RowMap((name,)) for name in tensors}, {}
    sizes = dimensions(config, path) if scheme.needs_sizes else {}
    layers = layer_count(config, path) if layers is None else layers
    maps: dict[str, RowMap] = {}
    left_out: dict[str, str] = {}
    for source, info in tensors.items():
        matches = [(rule, match) for rule in scheme.rules for p in rule.patterns if (match := p.fullmatch(source))]
        in_range = [(rule, match) for rule, match in matches if _in_range(rule, match, layers)]
        if not in_range:
            if matches:
                raise CheckpointError(
                    f"{path}: tensor {source!r} lies outside the {layers} layers that "
                    f"{config_of(path)} names; the two are of different models",
                    path=path,
                )
            if reason := buffer_reason(source, info):
                left_out[source] = reason
                continue
            if scheme.family == MAPPING:
                raise CheckpointError(f"{path}: tensor {source!r} has no name in the mapping; add it", path=path)
            raise CheckpointError(
                f"{path}: tensor {source!r} has no place in the layout {scheme.name} of the other names; if "
                "two layouts are mixed in it, remove the files of one, else download it again",
                path=path,
            )
        for rule, match in in_range:
            parts = match.groupdict()
            number = int(parts["n"]) - rule.shift if "n" in parts else 0
            name = _fill(rule.to, number, parts.get("w"), layers, 0)
            sources = tuple(_fill(part, number, parts.get("w"), layers, rule.shift) for part in rule.sources)
            if name in maps and maps[name].sources != sources:
                raise CheckpointError(
                    f"{path}: tensors {maps[name].sources[0]!r} and {source!r} are both {name!r}; remove the one that "
                    "is not of this model",
                    path=path,
                )
            layout = rule.layout or {}
            transposed, add = layout.get("transpose", False), layout.get("add", 0.0)
            maps[name] = RowMap(sources, _rows(rule, path, source, info, sizes), transposed, add)
    for name, row_map in maps.items():
        for source in row_map.sources:
            if source not in tensors:
                raise CheckpointError(
                    f"{path}: tensor {source!r} is missing; {name!r} is made from it; download the model again",
                    path=path,
                )
    return maps, left_out


def map_rows_back(scheme: Scheme, path: Path, tensors: Mapping[str, TensorInfo], config: Config) -> dict[str, RowMap]:
    """Foreign name -> where its rows lie in canonical tensors. Raises CheckpointError for a tensor the layout has no
    place for, or a foreign tensor that the canonical ones do not fill.
    """
    if scheme.same_names:
        return {name: RowMap((name,)) for name in tensors}
    sizes, layers = dimensions(config, path) if scheme.needs_sizes else {}, layer_count(config, path)
    maps: dict[str, RowMap] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, info in tensors.items():
        for rule in scheme.rules:
            if match := rule.canonical.fullmatch(name):
                break
        else:
            raise CheckpointError(f"{path}: tensor {name!r} has no place in the layout {scheme.name}", path=path)
        parts = match.groupdict()
        number = int(parts.get("n", 0))
        sources = tuple(_fill(part, number, parts.get("w"), layers, rule.shift) for part in rule.sources)
        layout = rule.layout or {}
        transposed = layout.get("transpose", False)
        if transposed or not layout.keys() & {"rows", "view"}:
            row_counts = [info.shape[0]] if info.shape else [1]
        elif "rows" in layout:
            row_counts = [evaluate_size(part, sizes) for part in layout["rows"]]
        else:
            row_counts = [math.prod(evaluate_size(part, sizes) for part in layout["view"])]
        for source, row_count in zip(sources, row_counts, strict=True):
            shapes[source] = (row_count, *info.shape[1:]) if info.shape else ()
        rows = _rows(rule, path, sources[0], TensorInfo(shapes[sources[0]], info.dtype), sizes)
        count = sum(row_counts) if rows is None else len(rows)
        if info.shape and count != info.shape[0]:
            raise CheckpointError(
                f"{path}: tensor {name!r} has {info.shape[0]} rows, {config_of(path)} asks for {count}", path=path
            )
        maps[name] = RowMap(sources, rows, transposed, layout.get("add", 0.0))
    try:
        return {name.removeprefix(scheme.bare_of): row_map for name, row_map in invert(maps, shapes).items()}
    except ValueError as error:
        raise CheckpointError(f"{path}: cannot be written as {scheme.name}: {error}", path=path) from error


def _fill(template: str, number: int, weight_or_bias: str | None, layers: int, shift: int) -> str:
    """A template with a layer's number, `weight` or `bias`, and the number behind the last layer put in."""
    name = template.replace("{w}", weight_or_bias or "").replace("{last}", str(layers + shift))
    return re.sub(r"\{n(\+\d+)?\}", str(number + shift), name)


def _in_range(rule: Rule, match: re.Match[str], layers: int) -> bool:
    parts = match.groupdict()
    if "last" in parts:
        return int(parts["last"]) == layers + rule.shift
    return "n" not in parts or 0 <= int(parts["n"]) - rule.shift < layers


def _rows(rule: Rule, path: Path, source: str, info: TensorInfo, sizes: Mapping[str, int]) -> np.ndarray | None:
    if rule.layout is None or "view" not in rule.layout:
        return None
    view = [evaluate_size(part, sizes) for part in rule.layout["view"]]
    if not info.shape or math.prod(view) != info.shape[0]:
        raise CheckpointError(
            f"{path}: tensor {source!r} has the shape {list(info.shape)}; its rows do not divide into "
            f"{' x '.join(map(str, rule.layout['view']))} = {' x '.join(map(str, view))}, which {config_of(path)} asks "
            "for; the two are of different models",
            path=path,
        )
    rows = np.arange(info.shape[0]).reshape(view)
    for axis, kept in enumerate(rule.layout.get("take", [])):
        if kept is not None:
            rows = rows.take(range(evaluate_size(kept[0], sizes), evaluate_size(kept[1], sizes)), axis=axis)
    return rows.transpose(rule.layout.get("order", range(rows.ndim))).reshape(-1)
