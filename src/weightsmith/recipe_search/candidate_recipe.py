"""A recipe without spaces: one candidate of a search."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weightsmith.methods.method import Method
from weightsmith.methods.registry import find_method
from weightsmith.methods.task_vectors.task_vector_method import TaskVectorMethod
from weightsmith.recipe_search.space import Keys, Space, set_at


def matters(method: str, parameter: str | None) -> bool:
    """Whether a parameter changes anything in a method; other places of a recipe always do."""
    method_class = find_method(method)
    if parameter is None or method_class is None:
        return True
    if parameter == "density" and isinstance(method_class, TaskVectorMethod) and method_class.sparsifier is None:
        return False
    return any(p.name == parameter for p in method_class.parameters) and parameter != "int8_mask"


def candidate(tree: Mapping[str, Any], values: Mapping[Keys, Any], spaces: Sequence[Space]) -> dict[str, Any]:
    """`tree` with `values` in the places of spaces. Where the method itself is searched for, what the chosen one does
    not know is left out."""
    recipe = copy.deepcopy(dict(tree))
    for keys, value in values.items():
        set_at(recipe, keys, value)
    for space in spaces:
        if space.keys not in values:
            _drop_parameter(recipe, space.keys)
    if any(space.keys == ("merge_method",) for space in spaces):
        method = find_method(str(recipe["merge_method"]))
        if method:
            _drop_foreign(recipe, method)
            if not method.needs_base and "base_model" in recipe:
                del recipe["base_model"]
    return recipe


def _drop_parameter(node: Any, keys: Keys) -> None:
    """The whole parameter that `keys` lie in, if it is still there."""
    owner = keys.index("parameters")
    for key in keys[: owner + 1]:
        node = node[key]
    node.pop(keys[owner + 1], None)


def _drop_foreign(node: Any, method: Method) -> None:
    method_class = {parameter.name for parameter in method.parameters}
    if isinstance(node, dict):
        parameters = node.get("parameters")
        if isinstance(parameters, dict):
            node["parameters"] = {name: value for name, value in parameters.items() if name in method_class}
        for value in node.values():
            _drop_foreign(value, method)
    elif isinstance(node, list):
        for value in node:
            _drop_foreign(value, method)


def portable_recipe(node: Any, home: Path) -> Any:
    """Model references that are relative to the search file's folder, as absolute paths: a recipe is read in another
    folder."""
    if isinstance(node, dict):
        return {
            key: _absolute(value, home)
            if key in ("model", "base_model") and isinstance(value, str)
            else portable_recipe(value, home)
            for key, value in node.items()
        }
    return [portable_recipe(value, home) for value in node] if isinstance(node, list) else node


def _absolute(reference: str, home: Path) -> str:
    parts = []
    for part in reference.split("+"):
        here, beside_file = Path(part), home / part
        parts.append(
            str((here if here.exists() else beside_file).resolve()) if here.exists() or beside_file.exists() else part
        )
    return "+".join(parts)
