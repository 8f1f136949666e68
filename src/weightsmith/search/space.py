"""The places of a recipe that are searched over.

A space is a mapping with one of these keys where a value would be: `uniform: [low, high]`, `loguniform: [low, high]`, `int: [low, high]`,
`choice: [...]`; the first and third take a `step` beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from weightsmith.methods.registry import METHODS
from weightsmith.recipe.yaml_file import YamlFile

KINDS = ("uniform", "loguniform", "int", "choice")
DENSITY_STEP = 0.001  # bounds of task vectors are known for these densities
_GRID_POINTS = 5

Keys = tuple[str | int, ...]


@dataclass(frozen=True)
class Space:
    """`keys`: its place in the recipe; `name`: how people and Optuna call it; `options`: of a choice, else empty."""

    keys: Keys
    name: str
    kind: str
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
        """Of a number, as Optuna has it."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.kind == "int":
            return IntDistribution(int(self.low), int(self.high), step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, step=self.step, log=self.kind == "loguniform")

    def ask(self, trial: Any) -> Any:
        """A value from an optuna trial."""
        if self.kind == "choice":
            return self.options[self.labels.index(trial.suggest_categorical(self.name, self.labels))]
        wanted = self.distribution
        if self.kind == "int":
            return trial.suggest_int(self.name, wanted.low, wanted.high, step=wanted.step)
        found = trial.suggest_float(self.name, wanted.low, wanted.high, step=wanted.step, log=wanted.log)
        return round(found, 9) if self.step else found

    def stored(self, value: Any) -> Any:
        """The nearest value in the space, as Optuna stores it. Raises ValueError for one that a choice does not have."""
        if self.kind == "choice":
            return self.labels[self.options.index(value)]
        value = min(max(float(value), self.low), self.high)
        if self.step:
            value = min(round(self.low + round((value - self.low) / self.step) * self.step, 9), self.high)
        return int(value) if self.kind == "int" else value

    def grid(self) -> list[Any]:
        """The values that a grid search tries."""
        if self.kind == "choice":
            return list(self.labels)
        if self.kind == "int":
            return list(range(int(self.low), int(self.high) + 1, int(self.step or 1)))
        if self.step and (self.high - self.low) / self.step < 2 * _GRID_POINTS:
            return [
                round(self.low + k * self.step, 9) for k in range(int((self.high - self.low) / self.step + 1e-9) + 1)
            ]
        ways = (self.low, self.high) if self.kind == "uniform" else (math.log(self.low), math.log(self.high))
        points = [ways[0] + (ways[1] - ways[0]) * k / (_GRID_POINTS - 1) for k in range(_GRID_POINTS)]
        return [self.stored(p if self.kind == "uniform" else math.exp(p)) for p in points]


def parameter_of(keys: Keys) -> str | None:
    """The merge parameter that a place in a recipe belongs to."""
    return next((str(keys[i + 1]) for i in range(len(keys) - 1) if keys[i] == "parameters"), None)


def find_spaces(file: YamlFile) -> list[Space]:
    """Every space of a recipe, `merge_method` first. Raises RecipeError for one that is empty, inverted, or of the wrong kind for its
    place."""
    found = sorted(_walk(file, file.tree, ()), key=lambda space: space.keys != ("merge_method",))
    names = [space.name for space in found]
    return [
        space if names.count(space.name) == 1 else Space(**{**vars(space), "name": ".".join(map(str, space.keys))})
        for space in found
    ]


def is_space(node: Any) -> bool:
    return isinstance(node, dict) and any(kind in node for kind in KINDS)


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
    kind = next(kind for kind in KINDS if kind in node)
    name = _name(file.tree, keys)
    if extra := set(node) - {kind, "step"}:
        raise file.error(keys, f"{name}: a space has one of {', '.join(KINDS)}, and perhaps a step; not {min(extra)!r}")
    if kind == "choice":
        options = node["choice"]
        if not isinstance(options, list) or not options:
            raise file.error(keys, f"{name}: an empty space; a choice is a list of values")
        if len({json.dumps(option) for option in options}) < len(options):
            raise file.error(keys, f"{name}: the same value twice in a choice")
        return Space(keys, name, kind, options=tuple(options))
    low, high = _bounds(file, node[kind], keys, name)
    _check_place(file, keys, name, kind)
    step = node.get("step")
    if step is not None and (not _is_number(step) or not 0 < step <= high - low or kind == "loguniform"):
        raise file.error(keys, f"{name}: step {step!r} does not fit between {low:g} and {high:g}")
    if kind == "loguniform" and low <= 0:
        raise file.error(keys, f"{name}: loguniform needs bounds above 0, not {low:g}")
    if kind == "int" and not (float(low).is_integer() and float(high).is_integer()):
        raise file.error(keys, f"{name}: int needs whole bounds, not [{low:g}, {high:g}]")
    if kind == "uniform" and step is None and parameter_of(keys) == "density":
        low, high, step = round(low, 3), round(high, 3), DENSITY_STEP
    if kind == "uniform" and step:
        high = round(low + math.floor((high - low) / step + 1e-9) * step, 9)
    return Space(keys, name, kind, float(low), float(high), step)


def _bounds(file: YamlFile, given: Any, keys: Keys, name: str) -> tuple[float, float]:
    if not isinstance(given, list) or len(given) != 2 or not all(map(_is_number, given)):
        raise file.error(keys, f"{name}: a space is [low, high], two numbers, not {given!r}")
    low, high = given
    if not low < high:
        problem = "an empty space" if low == high else "an inverted space"
        raise file.error(keys, f"{name}: [{low:g}, {high:g}] is {problem}; the first number is the lower bound")
    return low, high


def _check_place(file: YamlFile, keys: Keys, name: str, kind: str) -> None:
    """Numbers belong where a number is meant."""
    parameter = parameter_of(keys)
    if "layer_range" in keys and kind == "int":
        return
    if parameter is None:
        raise file.error(keys, f"{name}: is not a number, so {kind} cannot be searched for; use choice")
    known = [p for method in METHODS.values() for p in method.parameters if p.name == parameter]
    if known and all(p.kind is bool for p in known):
        raise file.error(keys, f"{name}: is true or false, so {kind} cannot be searched for; use choice: [true, false]")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _name(tree: dict[str, Any], keys: Keys) -> str:
    """`ft1.weight`, `ft2.weight[0]`, `normalize`, `merge_method`."""
    owner, node, shown = "", tree, []
    for key in keys:
        if isinstance(node, dict) and isinstance(node.get("model"), str):
            owner = short_name(node["model"])
        if isinstance(node, list) and isinstance(node[int(key)], dict) and "filter" in node[int(key)]:
            shown.append(f"[{node[int(key)]['filter'] or '*'}]")
        elif isinstance(node, list) and not (isinstance(node[int(key)], dict) and "model" in node[int(key)]):
            shown.append(f"[{key}]")
        elif isinstance(key, str) and key not in ("models", "slices", "sources", "parameters", "value"):
            shown.append(key)
        node = node[key]  # type: ignore[index]
    parts = [owner, *shown] if owner else shown
    return "".join(part if part.startswith("[") or not k else f".{part}" for k, part in enumerate(parts))


def short_name(reference: str) -> str:
    """`base.gguf+adapters/dates` is dates."""
    return reference.rpartition("+")[2].rstrip("/").rpartition("/")[2]


def set_at(tree: Any, keys: Sequence[str | int], value: Any) -> None:
    """`value` into `tree`, in place."""
    for key in keys[:-1]:
        tree = tree[key]
    tree[keys[-1]] = value
