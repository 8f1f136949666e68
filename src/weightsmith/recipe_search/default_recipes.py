"""The recipes that everyone uses, as points of a search space: they are tried first, so that a search is never worse
than they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weightsmith.methods.registry import find_method
from weightsmith.recipe_search.candidate_recipe import matters
from weightsmith.recipe_search.space import Space


@dataclass(frozen=True)
class Default:
    """`values`: the values for an Optuna trial, by the names of spaces."""

    name: str
    values: dict[str, Any]


# What recipes are published with (mergekit's examples, LazyMergekit): a weight for every model, a density, divided or
# not.
_RECIPES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("weight 0.5, density 0.5", {"weight": 0.5, "density": 0.5, "normalize": True}),
    ("weight 1, density 0.5", {"weight": 1.0, "density": 0.5, "normalize": False}),
    ("equal shares", {"weight": None, "density": 1.0, "normalize": True}),
)
_ALWAYS = {"lambda": 1.0, "gamma": 0.01, "epsilon": 0.1, "rescale": True}
_MIDDLE = {"t": 0.5}  # of methods that have no default for it


def default_recipes(spaces: Sequence[Space], tree: Mapping[str, Any], methods: Sequence[str]) -> list[Default]:
    """The default recipes of each of `methods` that differ within the spaces; a value outside of its space becomes the
    nearest one inside."""
    models = max(1, _count_models(tree))
    defaults: list[Default] = []
    if not any(space.parameter or space.keys == ("merge_method",) for space in spaces):
        return defaults  # such recipes say nothing of which models or layers to take
    for method in methods:
        for name, recipe in _RECIPES:
            values: dict[str, Any] = {}
            for space in spaces:
                if matters(method, space.parameter):
                    values[space.name] = _value(space, recipe, method, 1 / models)
            if values not in [default.values for default in defaults]:
                defaults.append(Default(f"{method}, {name}", values))
    return defaults


def _value(space: Space, recipe: Mapping[str, Any], method: str, share: float) -> Any:
    if space.keys == ("merge_method",):
        return space.stored(method)
    name = space.parameter or ""
    number = recipe.get(name, _ALWAYS.get(name))
    if name not in recipe and number is None:
        found = find_method(method)
        own = next((p.default for p in found.parameters if p.name == name), None) if found else None
        number = own if isinstance(own, int | float | str) else _MIDDLE.get(name)
    if space.parameter == "weight" and number is None:
        number = share
    if space.space_type == "choice":
        return space.stored(number if number in space.options else space.options[0])
    return space.stored(number if number is not None else (space.low + space.high) / 2)


def _count_models(tree: Mapping[str, Any]) -> int:
    """Models other than the base."""
    entries = tree.get("models") or (tree.get("slices") or [{}])[0].get("sources") or []
    return sum(1 for entry in entries if isinstance(entry, dict) and entry.get("model") != tree.get("base_model"))
