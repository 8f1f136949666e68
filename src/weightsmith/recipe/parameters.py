"""Parameter values: scalars, gradients over layers, and filters by tensor name, with mergekit's meaning.

A setting is a scalar; a list of scalars, spread over the layers and interpolated linearly (booleans pick the nearest
to the left); or a list of `{value, filter}`, of which the first whose filter is part of the tensor's name applies, or,
written `re:PATTERN`, is found in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import regex

from weightsmith.errors import RecipeError
from weightsmith.files.inputs.yaml_file import YamlFile
from weightsmith.files.suggestions import did_you_mean, nearest
from weightsmith.methods.method import Method, Parameter
from weightsmith.methods.registry import parameter_names

_PATTERN, _SECONDS = "re:", 1.0  # a pattern is somebody else's, and may take longer than anybody waits
_TRUE, _FALSE = {"true", "yes", "on"}, {"false", "no", "off"}  # YAML 1.1 booleans, which older recipes use


def check_parameters(
    file: YamlFile, keys: Sequence[str | int], parameters: dict[str, Any], method: Method, *, of_one_model: bool
) -> list[tuple[str, str]]:
    """(name, why) of the parameters that do nothing here, though mergekit takes them: those of other methods, and those
    of the whole merge that stand at one model. Raises RecipeError for names that no method has, wrong types and values
    out of range."""
    known = {p.name: p for p in method.parameters}
    unused = []
    for name, setting in parameters.items():
        here = [*keys, name]
        parameter = known.get(name)
        if parameter is None:
            if name not in parameter_names():
                raise file.error(here, f"unknown parameter {name!r} of {method.name}{nearest(name, known)}")
            has = f"it has {', '.join(known)}" if known else "it has none"
            unused.append((name, f"is no parameter of {method.name} and does nothing; {has}"))
            continue
        if of_one_model and parameter.scope == "shared":
            unused.append(
                (name, "belongs to the whole merge and does nothing at one model; move it to `parameters` at the top")
            )
        misplaced = len(keys) > 1 and not (of_one_model and parameter.scope != "shared")
        if parameter.of_whole_model and (misplaced or isinstance(setting, list | dict)):
            at_models = "" if parameter.scope == "shared" else " or at a model"
            raise file.error(
                here,
                f"{name} of {method.name} is one value for the whole model: it stands in `parameters` at the "
                f"top{at_models}, without a gradient or a filter",
            )
        for word in _words_in_gradients(parameter, setting):
            raise file.error(here, f"{word!r} stands alone, not in a list: nothing is between it and a number")
        for value in _scalars(file, here, setting):
            problem = _problem(parameter, value)
            if problem:
                raise file.error(here, f"{name} is {value!r}: {problem}")
    return unused


def _scalars(file: YamlFile, keys: list[str | int], setting: Any) -> Iterator[Any]:
    if isinstance(setting, dict):
        if "value" not in setting or not set(setting) <= {"value", "filter"}:
            raise file.error(keys, f"a conditional value has the keys 'value' and 'filter', not {sorted(setting)}")
        try:
            matches(setting.get("filter"), "")
        except RecipeError as error:
            raise file.error([*keys, "filter"], str(error)) from error
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


def _words_in_gradients(parameter: Parameter, setting: Any) -> Iterator[str]:
    if isinstance(setting, dict):
        yield from _words_in_gradients(parameter, setting.get("value"))
    elif isinstance(setting, list):
        for item in setting:
            if isinstance(item, dict):
                yield from _words_in_gradients(parameter, item)
            elif item in parameter.words:
                yield item


def _problem(parameter: Parameter, value: Any) -> str | None:
    try:
        number = _convert(parameter, value)
    except (TypeError, ValueError, OverflowError):
        return f"expected {expected_of(parameter)}{did_you_mean(str(value), parameter.choices)}"
    if parameter.choices or parameter.type is str or number in parameter.words:
        return None
    high = math.inf if parameter.at_most is None else parameter.at_most
    ending = "" if parameter.at_most is None else f" and at most {parameter.at_most:g}"
    if parameter.above is not None and not parameter.above < number <= high:
        return f"must be above {parameter.above:g}{ending}"
    if parameter.at_least is not None and not parameter.at_least <= number <= high:
        return f"must be at least {parameter.at_least:g}{ending}"
    return None


def expected_of(parameter: Parameter) -> str:
    """What a recipe may give it, in words."""
    if parameter.choices:
        return f"one of {', '.join(parameter.choices)}"
    number = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[parameter.type]
    return " or ".join([number, *parameter.words])


def _convert(parameter: Parameter, value: Any) -> Any:
    if parameter.choices:
        if value not in parameter.choices:
            raise ValueError
        return value
    if parameter.type is str:
        if not isinstance(value, str) or not value:
            raise TypeError
        return value
    if value in parameter.words:
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
            if matches(entry.get("filter"), tensor):
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


def matches(filter_text: Any, tensor: str) -> bool:
    """Whether a filter applies to a tensor: it is part of its name, or, written `re:PATTERN`, a regular expression that
    is found in it; `*` and none apply to all. Raises RecipeError for a pattern that is none or takes too long."""
    if filter_text is None or filter_text == "*":
        return True
    text = str(filter_text)
    if not text.startswith(_PATTERN):
        return text in tensor
    pattern = text.removeprefix(_PATTERN)
    try:
        return regex.search(pattern, tensor, timeout=_SECONDS) is not None
    except regex.error as error:
        raise RecipeError(f"{pattern!r} is no regular expression: {error}") from error
    except TimeoutError as error:
        raise RecipeError(
            f"the regular expression {pattern!r} took more than {_SECONDS} s for {tensor!r}; write a simpler one"
        ) from error


def filters_in(parameters: Mapping[str, Any]) -> Iterator[tuple[list[str | int], str]]:
    """(keys that lead to it, its text) of every filter among the parameters of one place."""

    def walk(keys: list[str | int], setting: Any) -> Iterator[tuple[list[str | int], str]]:
        if isinstance(setting, dict):
            if setting.get("filter") not in (None, "*"):
                yield [*keys, "filter"], str(setting["filter"])
        elif isinstance(setting, list):
            for number, entry in enumerate(setting):
                yield from walk([*keys, number], entry)

    for name, setting in parameters.items():
        yield from walk([name], setting)
