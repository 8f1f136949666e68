"""The places of a recipe that are searched over.

A space is a mapping with one of these keys where a value would be: `uniform: [low, high]`, `loguniform: [low, high]`,
`int: [low, high]`, `choice: [...]`; the first and third take a `step` beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightsmith.files.inputs.yaml_file import YamlFile
from weightsmith.methods.registry import METHODS, method_names

SPACE_TYPES = ("uniform", "loguniform", "int", "choice")
DENSITY_STEP = 0.001  # bounds of task vectors are known for these densities
_GRID_POINTS = 5

Keys = tuple[str | int, ...]


@dataclass(frozen=True)
class Space:
    """`keys`: its place in the recipe; `name`: how people and Optuna call it; `options`: of a choice, else empty."""

    keys: Keys
    name: str
    space_type: str
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    options: tuple[Any, ...] = ()

    @property
    def parameter(self) -> str | None:
        """The merge parameter it is a value of; None elsewhere in the recipe."""
        return parameter_of(self.keys)

    @property
    def labels(self) -> list[str]:
        """The options as Optuna stores them."""
        return [option if isinstance(option, str) else json.dumps(option) for option in self.options]

    @property
    def distribution(self) -> Any:
        """The distribution of a number, as Optuna has it."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.space_type == "int":
            return IntDistribution(int(self.low), int(self.high), step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, step=self.step, log=self.space_type == "loguniform")

    def ask(self, trial: Any) -> Any:
        """A value from an optuna trial."""
        if self.space_type == "choice":
            return self.options[self.labels.index(trial.suggest_categorical(self.name, self.labels))]
        distribution = self.distribution
        if self.space_type == "int":
            return trial.suggest_int(self.name, distribution.low, distribution.high, step=distribution.step)
        spaces = trial.suggest_float(
            self.name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
        return round(spaces, 9) if self.step else spaces

    def stored(self, value: Any) -> Any:
        """The nearest value in the space, as Optuna stores it. Raises ValueError for one that a choice does not
        have."""
        if self.space_type == "choice":
            return self.labels[self.options.index(value)]
        value = min(max(float(value), self.low), self.high)
        if self.step:
            value = min(round(self.low + round((value - self.low) / self.step) * self.step, 9), self.high)
        return int(value) if self.space_type == "int" else value

    @property
    def grid_size(self) -> int:
        """How many values a grid search tries."""
        if self.space_type == "int":
            return (int(self.high) - int(self.low)) // int(self.step or 1) + 1
        return len(self.grid())

    def grid(self) -> list[Any]:
        """The values that a grid search tries."""
        if self.space_type == "choice":
            return list(self.labels)
        if self.space_type == "int":
            return list(range(int(self.low), int(self.high) + 1, int(self.step or 1)))
        if self.step and (self.high - self.low) / self.step < 2 * _GRID_POINTS:
            return [
                round(self.low + k * self.step, 9) for k in range(int((self.high - self.low) / self.step + 1e-9) + 1)
            ]
        ends = (self.low, self.high) if self.space_type == "uniform" else (math.log(self.low), math.log(self.high))
        points = [ends[0] + (ends[1] - ends[0]) * k / (_GRID_POINTS - 1) for k in range(_GRID_POINTS)]
        return [self.stored(p if self.space_type == "uniform" else math.exp(p)) for p in points]


def parameter_of(keys: Keys) -> str | None:
    """The merge parameter that a place in a recipe belongs to."""
    return next((str(keys[i + 1]) for i in range(len(keys) - 1) if keys[i] == "parameters"), None)


def find_spaces(file: YamlFile) -> list[Space]:
    """Every space of a recipe, `merge_method` first. Raises RecipeError for one that is empty, inverted, or of the
    wrong kind for its place."""
    spaces = sorted(_walk(file, file.tree, ()), key=lambda space: space.keys != ("merge_method",))
    names = [space.name for space in spaces]
    return [
        space if names.count(space.name) == 1 else Space(**{**vars(space), "name": ".".join(map(str, space.keys))})
        for space in spaces
    ]


def is_space(node: Any) -> bool:
    return isinstance(node, dict) and any(space_type in node for space_type in SPACE_TYPES)


def _walk(file: YamlFile, node: Any, keys: Keys) -> Iterator[Space]:
    if is_space(node):
        yield _read(file, node, keys)
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _walk(file, value, (*keys, key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _walk(file, value, (*keys, number))


def _read(file: YamlFile, node: dict[str, Any], keys: Keys) -> Space:
    space_type = next(space_type for space_type in SPACE_TYPES if space_type in node)
    name = _name(file.tree, keys)
    if extra := set(node) - {space_type, "step"}:
        raise file.error(
            keys, f"{name}: a space has one of {', '.join(SPACE_TYPES)}, and optionally a step; not {min(extra)!r}"
        )
    if space_type == "choice":
        options = node["choice"]
        if not isinstance(options, list) or not options:
            raise file.error(keys, f"{name}: an empty space; a choice is a list of values")
        if len({json.dumps(option) for option in options}) < len(options):
            raise file.error(keys, f"{name}: the same value twice in a choice")
        return Space(keys, name, space_type, options=tuple(options))
    low, high = _bounds(file, node[space_type], keys, name)
    _check_place(file, keys, name, space_type)
    step = node.get("step")
    if step is not None and (not _is_number(step) or not 0 < step <= high - low or space_type == "loguniform"):
        raise file.error(keys, f"{name}: step {step!r} does not fit between {low:g} and {high:g}")
    if space_type == "loguniform" and low <= 0:
        raise file.error(keys, f"{name}: loguniform needs bounds above 0, not {low:g}")
    if space_type == "int" and not (float(low).is_integer() and float(high).is_integer()):
        raise file.error(keys, f"{name}: int needs whole bounds, not [{low:g}, {high:g}]")
    if space_type == "int" and step is not None and not float(step).is_integer():
        raise file.error(keys, f"{name}: int needs a whole step, not {step:g}")
    if space_type == "uniform" and step is None and parameter_of(keys) == "density":
        low, high, step = round(low, 3), round(high, 3), DENSITY_STEP
    if space_type == "uniform" and step:
        high = round(low + math.floor((high - low) / step + 1e-9) * step, 9)
    return Space(keys, name, space_type, float(low), float(high), step)


def _bounds(file: YamlFile, bounds_given: Any, keys: Keys, name: str) -> tuple[float, float]:
    if not isinstance(bounds_given, list) or len(bounds_given) != 2 or not all(map(_is_number, bounds_given)):
        raise file.error(keys, f"{name}: a space is [low, high], two numbers, not {bounds_given!r}")
    low, high = bounds_given
    if not low < high:
        problem = "an empty space" if low == high else "an inverted space"
        raise file.error(keys, f"{name}: [{low:g}, {high:g}] is {problem}; the first number is the lower bound")
    return low, high


def _check_place(file: YamlFile, keys: Keys, name: str, space_type: str) -> None:
    """Numbers belong where a number is meant."""
    parameter = parameter_of(keys)
    if "layer_range" in keys and space_type == "int":
        return
    if parameter is None:
        raise file.error(keys, f"{name}: is not a number, so {space_type} cannot be searched for; use choice")
    known = [p for name in method_names() for p in METHODS[name].parameters if p.name == parameter]
    if known and all(p.type is bool for p in known):
        raise file.error(
            keys, f"{name}: is true or false, so {space_type} cannot be searched for; use choice: [true, false]"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _name(tree: dict[str, Any], keys: Keys) -> str:
    """`ft1.weight`, `ft2.weight[0]`, `normalize`, `merge_method`."""
    owner, node, shown = "", tree, []
    for key in keys:
        if isinstance(node, dict) and isinstance(node.get("model"), str):
            owner = last_name(node["model"])
        if isinstance(node, list) and isinstance(node[int(key)], dict) and "filter" in node[int(key)]:
            shown.append(f"[{node[int(key)]['filter'] or '*'}]")
        elif isinstance(node, list) and not (isinstance(node[int(key)], dict) and "model" in node[int(key)]):
            shown.append(f"[{key}]")
        elif isinstance(key, str) and key not in ("models", "slices", "sources", "parameters", "value"):
            shown.append(key)
        node = node[key]  # type: ignore[index]
    parts = [owner, *shown] if owner else shown
    return "".join(part if part.startswith("[") or not k else f".{part}" for k, part in enumerate(parts))


def last_name(reference: str) -> str:
    """The adapter's name where there is one: `base.gguf+adapters/dates` is dates."""
    return Path(reference.rpartition("+")[2]).name


def set_at(tree: Any, keys: Sequence[str | int], value: Any) -> None:
    """`value` into `tree`, in place."""
    for key in keys[:-1]:
        tree = tree[key]
    tree[keys[-1]] = value
