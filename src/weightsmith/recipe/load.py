"""A recipe file to a checked Recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from weightsmith.methods.method import Method
from weightsmith.methods.registry import METHODS
from weightsmith.recipe.parameters import check_parameters
from weightsmith.recipe.schema import Recipe
from weightsmith.recipe.yaml_file import YamlFile, nearest, read_yaml


@dataclass(frozen=True)
class LoadedRecipe:
    """The file, what it says, and the method it names."""

    file: YamlFile
    recipe: Recipe
    method: Method


def load_recipe(recipe_file: Path | str | YamlFile) -> LoadedRecipe:
    """Read and check a recipe; no model is opened. Raises RecipeError naming file and line."""
    file = recipe_file if isinstance(recipe_file, YamlFile) else read_yaml(Path(recipe_file))
    recipe = file.validate(Recipe)
    if recipe.merge_method not in METHODS:
        raise file.error(
            ["merge_method"], f"unknown merge_method {recipe.merge_method!r}{nearest(recipe.merge_method, METHODS)}"
        )
    method = METHODS[recipe.merge_method]
    if method.needs_base and not recipe.base_model and not _slices_have_bases(recipe):
        raise file.error([], f"the key 'base_model' is missing; {method.name} needs one")
    check_parameters(file, ["parameters"], recipe.parameters, method, of_one_model=False)
    for i, entry in enumerate(recipe.models or []):
        check_parameters(file, ["models", i, "parameters"], entry.parameters, method, of_one_model=True)
    for i, part in enumerate(recipe.slices or []):
        check_parameters(file, ["slices", i, "parameters"], part.parameters, method, of_one_model=False)
        for j, source in enumerate(part.sources):
            keys = ["slices", i, "sources", j, "parameters"]
            check_parameters(file, keys, source.parameters, method, of_one_model=True)
    return LoadedRecipe(file, recipe, method)


def _slices_have_bases(recipe: Recipe) -> bool:
    return bool(recipe.slices) and all(part.base_model for part in recipe.slices or [])
