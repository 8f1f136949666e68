"""A merge recipe, read and checked; no model is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from weightsmith.files.inputs.yaml_file import YamlFile, read_yaml
from weightsmith.files.suggestions import nearest
from weightsmith.methods.method import Method
from weightsmith.methods.registry import find_method, method_names
from weightsmith.recipe.parameters import check_parameters
from weightsmith.recipe.recipe_schema import RecipeSchema

NAME = Path("recipe")  # what a recipe that is no file is called in messages


class Place(TypedDict):
    """Where a recipe names a model."""

    path: Path
    line: int | None


class Recipe:
    """A merge recipe with mergekit's keys: from keywords, a file (`load_recipe`) or a mapping (`from_dict`).

    `file`: where it comes from, with the line of each key; `schema`: what it says; `method`: the one it names. Model
    references are relative to the working directory, or to the file's folder. No model is opened. Raises RecipeError
    for unknown keys, unknown methods, and parameters that the method does not have or that are out of range.

    >>> recipe = ws.Recipe(merge_method="linear", models=[{"model": "a", "parameters": {"weight": 1.0}}, {"model": "b",
    ...     "parameters": {"weight": 0.5}}], dtype="bfloat16")
    >>> recipe.schema.models[1].model
    'b'
    >>> recipe.method.title
    'Linear'
    """

    def __init__(
        self,
        *,
        merge_method: str,
        models: Sequence[Mapping[str, Any]] | None = None,
        slices: Sequence[Mapping[str, Any]] | None = None,
        base_model: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        dtype: str | None = None,
        out_dtype: str | None = None,
        tokenizer_source: str | None = None,
        tokenizer: Mapping[str, Any] | None = None,
    ) -> None:
        given = {
            "merge_method": merge_method,
            "models": models,
            "slices": slices,
            "base_model": base_model,
            "parameters": parameters,
            "dtype": dtype,
            "out_dtype": out_dtype,
            "tokenizer_source": tokenizer_source,
            "tokenizer": tokenizer,
        }
        self._read(YamlFile.of_tree(NAME, {key: value for key, value in given.items() if value is not None}))

    @classmethod
    def from_file(cls, path: Path | str) -> Recipe:
        """A YAML file. Raises RecipeError naming file and line.

        >>> ws.Recipe.from_file("ties.yml").schema.base_model
        'base'
        """
        return cls.from_yaml(read_yaml(Path(path)))

    @classmethod
    def from_dict(cls, keys: Mapping[str, Any], *, path: Path = NAME) -> Recipe:
        """A mapping with mergekit's keys; `path` names it in messages, and models may lie beside it. Raises
        RecipeError.

        >>> ws.Recipe.from_dict({"merge_method": "passthrough", "models": [{"model": "a"}]}).method.name
        'passthrough'
        """
        return cls.from_yaml(YamlFile.of_tree(path, keys))

    @classmethod
    def from_yaml(cls, file: YamlFile) -> Recipe:
        """A file that is read already. Raises RecipeError."""
        recipe = cls.__new__(cls)
        recipe._read(file)
        return recipe

    def _read(self, file: YamlFile) -> None:
        self.file, self.schema = file, file.validate(RecipeSchema)
        self.method = _checked_method(file, self.schema)

    def __repr__(self) -> str:
        return f"<Recipe {self.file.path}: {self.method.name}>"

    def __str__(self) -> str:
        """The recipe as YAML."""
        return self.file.text

    def keys_of(self, reference: str) -> list[str | int]:
        """Where the recipe names a model, the most specific place first."""
        for i, entry in enumerate(self.schema.models or []):
            if entry.model == reference:
                return ["models", i, "model"]
        for i, part in enumerate(self.schema.slices or []):
            for j, source in enumerate(part.sources):
                if source.model == reference:
                    return ["slices", i, "sources", j, "model"]
        return ["base_model"]

    def line_of(self, reference: str) -> str:
        """`recipe.yml:4`, the line that names a model."""
        return self.file.place(self.keys_of(reference))

    def place_of(self, reference: str) -> Place:
        """The same for an exception's `path` and `line`."""
        return {"path": self.file.path, "line": self.file.line(self.keys_of(reference))}


def load_recipe(recipe: Recipe | Path | str | YamlFile | Mapping[str, Any]) -> Recipe:
    """Read and check a recipe: a file's path, a mapping, or one that is read already. No model is opened. Raises
    RecipeError naming file and line.

    >>> ws.load_recipe("ties.yml").method.name
    'ties'
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, YamlFile):
        return Recipe.from_yaml(recipe)
    return Recipe.from_dict(recipe) if isinstance(recipe, Mapping) else Recipe.from_file(recipe)


def _checked_method(file: YamlFile, schema: RecipeSchema) -> Method:
    """The method, whose parameters are those that the recipe gives. Raises RecipeError."""
    method = find_method(schema.merge_method)
    if method is None:
        suggestion = nearest(schema.merge_method, method_names())
        raise file.error(["merge_method"], f"unknown merge_method {schema.merge_method!r}{suggestion}")
    if method.needs_base and not schema.base_model and not _slices_have_bases(schema):
        raise file.error([], f"the key 'base_model' is missing; {method.name} needs one")
    if method.needs_base and schema.models and all(entry.model == schema.base_model for entry in schema.models):
        raise file.error(["models"], f"no model besides the base {schema.base_model!r}; {method.name} needs one")
    check_parameters(file, ["parameters"], schema.parameters, method, of_one_model=False)
    for i, entry in enumerate(schema.models or []):
        check_parameters(file, ["models", i, "parameters"], entry.parameters, method, of_one_model=True)
    for i, part in enumerate(schema.slices or []):
        check_parameters(file, ["slices", i, "parameters"], part.parameters, method, of_one_model=False)
        for j, source in enumerate(part.sources):
            keys = ["slices", i, "sources", j, "parameters"]
            check_parameters(file, keys, source.parameters, method, of_one_model=True)
    return method


def _slices_have_bases(schema: RecipeSchema) -> bool:
    return bool(schema.slices) and all(part.base_model for part in schema.slices or [])
