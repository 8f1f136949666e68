"""Parameter values: scalars, gradients over layers, and filters by tensor name, with mergekit's meaning.

A setting is a scalar; a list of scalars, spread over the layers and interpolated linearly (booleans pick the nearest
to the left); or a list of `{value, filter}`, of which the first whose filter is part of the tensor's name applies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from weightsmith.files.inputs.yaml_file import YamlFile
from weightsmith.files.suggestions import nearest
from weightsmith.methods.method import Method, Parameter

_TRUE, _FALSE = {"true", "yes", "on"}, {"false", "no", "off"}  # YAML 1.1 booleans, which older recipes use


def check_parameters(
    file: YamlFile, keys: Sequence[str | int], parameters: dict[str, Any], method: Method, *, of_one_model: bool
) -> None:
    """Refuse unknown names, wrong types and values out of range. Raises RecipeError."""
    known = {p.name: p for p in method.parameters}
    for name, setting in parameters.items():
        here = [*keys, name]
        if name not in known:
            raise file.error(here, f"unknown parameter {name!r} of {method.name}{nearest(name, known)}")
        parameter = known[name]
        if of_one_model and parameter.scope == "shared":
            raise file.error(
                here, f"{name!r} belongs to the whole merge; move it to the recipe's top-level `parameters`"
            )
        for value in _scalars(file, here, setting):
            problem = _problem(parameter, value)
            if problem:
                raise file.error(here, f"{name} is {value!r}: {problem}")


def _scalars(file: YamlFile, keys: list[str | int], setting: Any) -> Iterator[Any]:
    if isinstance(setting, dict):
        if "value" not in setting or not set(setting) <= {"value", "filter"}:
            raise file.error(keys, f"a conditional value has the keys 'value' and 'filter', not {sorted(setting)}")
        yield from _scalars(file, keys, setting["value"])
    elif isinstance(setting, list):
        if not setting:
            raise file.error(keys, "an empty list of values")
        if len({isinstance(item, dict) for item in setting}) > 1:
            raise file.error(keys, "a list holds either numbers (a gradient) or {value, filter} entries, not both")
        if any(isinstance(item, list) for item in setting):
            raise file.error(keys, "a list within a list of values")
        for item in setting:
            yield from _scalars(file, keys, item)
    else:
        yield setting


def _problem(parameter: Parameter, value: Any) -> str | None:
    try:
        number = _convert(parameter, value)
    except (TypeError, ValueError, OverflowError):
        return f"expected {expected_of(parameter)}"
    if parameter.choices:
        return None
    if parameter.above is not None and not parameter.above < number <= (parameter.at_most or math.inf):
        return f"must be above {parameter.above:g} and at most {parameter.at_most:g}"
    if parameter.at_least is not None and not parameter.at_least <= number <= (parameter.at_most or math.inf):
        return f"must be at least {parameter.at_least:g} and at most {parameter.at_most:g}"
    return None


def expected_of(parameter: Parameter) -> str:
    """What a recipe may give it, in words."""
    if parameter.choices:
        return f"one of {', '.join(parameter.choices)}"
    return {bool: "true or false", int: "a whole number", float: "a number"}[parameter.type]


def _convert(parameter: Parameter, value: Any) -> Any:
    if parameter.choices:
        if value not in parameter.choices:
            raise ValueError
        return value
    if parameter.type is bool:
        if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
        if value in (0, 1):
            return bool(value)
        raise ValueError
    if value is None:
        if parameter.default is None:
            return None
        raise ValueError
    if isinstance(value, bool):
        return float(value)
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    if parameter.type is int:
        if number != int(number):
            raise ValueError
        return int(number)
    return number


def resolve(parameter: Parameter, sources: Sequence[dict[str, Any]], tensor: str, t: float) -> Any:
    """The value for one tensor at depth `t` (0 first layer, 1 last): the first source that has one, else the default
    (`REQUIRED` where there is none)."""
    for source in sources:
        if parameter.name in source:
            value = _evaluate(parameter, source[parameter.name], tensor, t)
            if value is not None:
                return value
    return parameter.default


def _evaluate(parameter: Parameter, setting: Any, tensor: str, t: float) -> Any:
    if isinstance(setting, dict):
        setting = [setting]
    if not isinstance(setting, list):
        return _convert(parameter, setting)
    if isinstance(setting[0], dict):
        for entry in setting:
            filter_text = entry.get("filter")
            if filter_text is None or filter_text == "*" or str(filter_text) in tensor:
                return _evaluate(parameter, entry["value"], tensor, t)
        return None
    values = [_convert(parameter, v) for v in setting]
    position = t * (len(values) - 1)
    left = int(position)
    if parameter.type in (bool, str):
        return values[left]
    right = min(len(values) - 1, left + 1)
    between = (1 - (position - left)) * values[left] + (position - left) * values[right]
    return round(between) if parameter.type is int else between
