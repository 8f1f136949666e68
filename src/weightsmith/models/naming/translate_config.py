"""A foreign configuration in the keys of the current `transformers` class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.checkpoint.checkpoint import TensorInfo
from weightsmith.checkpoint.dtypes import dtype_title
from weightsmith.errors import CheckpointError
from weightsmith.models.naming.dimensions import COUNTS, Config, check_count, dimensions, evaluate_size
from weightsmith.models.naming.scheme import Scheme


class NoTransformersClass(CheckpointError):
    """A variant of an architecture that no class of transformers computes: it can only be read as it is."""


def translate_config(
    scheme: Scheme, path: Path, foreign: Mapping[str, Any], tensors: Mapping[str, TensorInfo] | None = None
) -> Config:
    """`rename` gives each canonical key its foreign name, `default` a value (or a sum of products of canonical keys)
    where there is none, `shape` the length of a dimension of one of the foreign `tensors`; `ratio` is a quotient of two
    keys (or of a key and a number), `times` a product; `set` is constant, `when` sets more where the foreign keys have
    given values; what is in no list is kept where the source is a config.json. Raises CheckpointError for a key that is
    missing, NoTransformersClass for a value in `refuse`.
    """
    rules = scheme.config
    for key, refused, reason in rules.get("refuse", []):
        value = foreign.get(key)
        if value == refused if refused is not None else value not in (None, 0, "none"):
            raise NoTransformersClass(f"{path}: {key} is {value!r}: {reason}")
    pairs = [*rules.get("ratio", {}).values(), *rules.get("times", {}).values()]
    used = {*rules["rename"].values(), *rules.get("drop", []), *(pair[0] for pair in pairs)}
    config: Config = {} if rules.get("only_listed") else {k: v for k, v in foreign.items() if k not in used}
    config.update(rules["set"])
    for conditions, more in rules.get("when", []):
        if all(foreign.get(key) == value for key, value in conditions.items()):
            config.update(more)
    for key, (pattern, axis) in rules.get("shape", {}).items():
        shape = next(
            (i.shape for n, i in (tensors or {}).items() if re.fullmatch(pattern, n) and len(i.shape) > axis), None
        )
        if shape:
            config[key] = shape[axis]
    for key, name in rules["rename"].items():
        value = foreign.get(name, foreign.get(key))
        if value is None or (value == 0 and key in rules.get("zero_is_none", [])):
            if config.get(key) is not None:
                continue  # `when` or `shape` knows it
            if key not in rules["default"]:
                raise CheckpointError(f"{path}: the key {name} is missing", path=path)
            value = rules["default"][key]
            if isinstance(value, str):
                value = evaluate_size(value, config)
        if key in COUNTS and name in foreign:
            for count in value if isinstance(value, list) and value else [value]:
                check_count(path, name, key, count, least=1)
        # GGUF keeps float32; the shortest decimal of that float32 is the number the author wrote (1e-05).
        config[key] = float(str(np.float32(value))) if isinstance(value, float) else value
    for key, (upper, lower) in rules.get("ratio", {}).items():
        if foreign.get(upper) is not None and key not in (config.get("rope_parameters") or {}):
            quotient = foreign[upper] / evaluate_size(lower, {**config, "head_dim": _head(config)})
            config[key] = int(quotient) if isinstance(lower, int) else quotient
    for key, (name, factor) in rules.get("times", {}).items():
        if key not in (config.get("rope_parameters") or {}):
            config[key] = foreign.get(name, 1) * factor
    return config


def translate_config_back(scheme: Scheme, config: Config) -> Config:
    """A canonical configuration in the keys of a foreign layout. Raises CheckpointError where it is of another
    family."""
    rules = scheme.config
    if config.get("model_type") != rules["set"]["model_type"]:
        raise CheckpointError(
            f"the layout {scheme.name} is one of {rules['set']['model_type']} models; this one is "
            f"{config.get('model_type')!r}"
        )
    names, kept = rules["rename"], config
    if rules.get("only_listed"):
        kept = {key: config[key] for key in (*names, *rules.get("shape", {})) if config.get(key) is not None}
    foreign = {names.get(key, key): value for key, value in kept.items()}
    for key, (upper, lower) in rules.get("ratio", {}).items():
        value = foreign.pop(key, None) or (config.get("rope_parameters") or {}).get(key)
        if value is not None:
            foreign[upper] = round(value * evaluate_size(lower, {**config, "head_dim": _head(config)}))
    for key, (name, factor) in rules.get("times", {}).items():
        value = foreign.pop(key, None) or (config.get("rope_parameters") or {}).get(key)
        if value is not None:
            foreign[name] = value / factor
    return foreign | rules.get("foreign", {})


def _head(config: Config) -> int:
    return dimensions(config)["head_dim"]


_NOT_PUBLISHED = ("auto_map", "quantization_config", "torch_dtype", "_name_or_path", "transformers_version")


def published(config: Mapping[str, Any], infos: Sequence[TensorInfo]) -> Config:
    """What goes into a config.json that we write: no code to follow, and the dtype that most weights have."""
    public_keys = {key: value for key, value in config.items() if key not in _NOT_PUBLISHED}
    counted = Counter(dtype_title(info.dtype) for info in infos)
    public_keys["dtype"] = max(sorted(counted), key=counted.__getitem__, default="float32")
    return dict(sorted(public_keys.items()))
