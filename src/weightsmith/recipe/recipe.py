"""A merge recipe, read and checked; no model is opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from weightsmith.files.inputs.yaml_file import YamlFile, read_yaml
from weightsmith.files.suggestions import nearest
from weightsmith.methods.method import Method
from weightsmith.methods.registry import find_method, method_names
from weightsmith.recipe.documents import stage_in, stages_of
from weightsmith.recipe.model_reference import architectures_in
from weightsmith.recipe.parameters import check_parameters
from weightsmith.recipe.recipe_schema import Module, RecipeSchema

NAME = Path("recipe")  # what a recipe that is no file is called in messages


class Place(TypedDict):
    """Where a recipe names a model."""

    path: Path
    line: int | None


class Recipe:
    """A merge recipe with mergekit's keys: from keywords, a file (`load_recipe`) or a mapping (`from_dict`).

    `file`: where it comes from, with the line of each key; `schema`: what it says; `method`: the one it names. Model
    references are relative to the working directory, or to the file's folder; `stages`: of a file with several
    documents, the others by name. No model is opened. Raises RecipeError
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
        modules: Mapping[str, Mapping[str, Any]] | None = None,
        base_model: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        dtype: str | None = None,
        out_dtype: str | None = None,
        tokenizer_source: str | None = None,
        tokenizer: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
    ) -> None:
        given = {
            "merge_method": merge_method,
            "models": models,
            "slices": slices,
            "modules": modules,
            "base_model": base_model,
            "parameters": parameters,
            "dtype": dtype,
            "out_dtype": out_dtype,
            "tokenizer_source": tokenizer_source,
            "tokenizer": tokenizer,
            "chat_template": chat_template,
        }
        self._read(YamlFile.of_tree(NAME, {key: value for key, value in given.items() if value is not None}))

    @classmethod
    def from_file(cls, path: Path | str) -> Recipe:
        """A YAML file. Raises RecipeError naming file and line.

        >>> ws.Recipe.from_file("ties.yml").schema.base_model
        'base'
        """
        return cls.from_yaml(read_yaml(Path(path), several=True))

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
        """A file that is read already; of several documents, the one whose result is the output, with the others in
        `stages`. Raises RecipeError."""
        output, others = stages_of(file)
        recipe = cls.__new__(cls)
        recipe._read(output)
        for name, document in others.items():
            recipe.stages[name] = cls.__new__(cls)
            recipe.stages[name]._read(document)
            recipe.stages[name].stages = recipe.stages
        recipe.warnings += tuple(
            f"{stage.file.place(['name'])}: no stage that the output needs uses {name!r}, so it is not made"
            for name, stage in recipe.stages.items()
            if name not in recipe.used_stages
        )
        return recipe

    def _read(self, file: YamlFile) -> None:
        if "merge_method" not in file.tree and {"experts", "gate_mode"} & file.tree.keys():
            raise file.error(
                ["experts"],
                "this is a recipe of mergekit-moe, which makes one model of experts from several models; it has no "
                "merge_method, and weightsmith does not make such models",
            )
        self.stages: dict[str, Recipe] = {}
        self.file, self.schema = file, file.validate(RecipeSchema)
        self.method = _known_method(file, self.schema)
        self.architectures = dict(architectures_in(file.tree))
        self.warnings = tuple(_check(file, self.schema, self.method))

    def __repr__(self) -> str:
        return f"<Recipe {self.file.path}: {self.method.name}>"

    def __str__(self) -> str:
        """The recipe as YAML."""
        return self.file.text

    @cached_property
    def used_stages(self) -> list[str]:
        """The stages that it is made from, each behind those that it uses itself."""
        order: list[str] = []
        for reference in model_references(self):
            name = stage_in(reference, self.stages)
            if name and name not in order:
                order += [inner for inner in self.stages[name].used_stages if inner not in order]
                order.append(name)
        return order

    @property
    def text_with_stages(self) -> str:
        """The recipe as YAML, and that of every stage it is made from."""
        return "\n---\n".join([self.file.text, *(self.stages[name].file.text for name in self.used_stages)])

    def keys_of(self, reference: str) -> list[str | int]:
        """Where the recipe names a model, the most specific place first."""
        places = (place for place in model_places(self.schema) if place.reference == reference)
        return next((place.keys for place in places), ["base_model"])

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


@dataclass(frozen=True)
class ModelPlace:
    """One place where a recipe names a model: the keys that lead to the reference, and the parameters beside it."""

    keys: list[str | int]
    reference: str
    parameters: dict[str, Any]


def model_references(recipe: Recipe) -> Iterator[str]:
    """Every model reference of a recipe, the base first; some come twice."""
    schema = recipe.schema
    if schema.base_model:
        yield schema.base_model
    for _, part in parts_of(schema):
        for run in part.slices or []:
            if run.base_model:
                yield run.base_model
    for place in model_places(schema):
        yield place.reference


def model_places(schema: RecipeSchema) -> Iterator[ModelPlace]:
    """Every model of `models` and `slices`, of the recipe or of its modules."""
    for keys, part in parts_of(schema):
        for i, entry in enumerate(part.models or []):
            yield ModelPlace([*keys, "models", i, "model"], entry.model, entry.parameters)
        for i, run in enumerate(part.slices or []):
            for j, source in enumerate(run.sources):
                yield ModelPlace([*keys, "slices", i, "sources", j, "model"], source.model, source.parameters)


def parts_of(schema: RecipeSchema) -> list[tuple[list[str | int], RecipeSchema | Module]]:
    """What has `models` or `slices`, and the keys that lead there: the recipe itself, or its modules."""
    if schema.modules is None:
        return [([], schema)]
    return [(["modules", name], module) for name, module in schema.modules.items()]


def parameter_places(schema: RecipeSchema) -> Iterator[tuple[list[str | int], dict[str, Any], bool]]:
    """(the keys that lead to them, the parameters, whether they are one model's) of every place that has parameters."""
    yield ["parameters"], schema.parameters, False
    for keys, part in parts_of(schema):
        if keys:
            yield [*keys, "parameters"], part.parameters, False
        for i, run in enumerate(part.slices or []):
            yield [*keys, "slices", i, "parameters"], run.parameters, False
    for place in model_places(schema):
        yield [*place.keys[:-1], "parameters"], place.parameters, True


def _known_method(file: YamlFile, schema: RecipeSchema) -> Method:
    method = find_method(schema.merge_method)
    if method is None:
        suggestion = nearest(schema.merge_method, method_names())
        raise file.error(["merge_method"], f"unknown merge_method {schema.merge_method!r}{suggestion}")
    return method


def _check(file: YamlFile, schema: RecipeSchema, method: Method) -> Iterator[str]:
    """Warnings about parameters that do nothing. Raises RecipeError for a base that is missing, and for parameters that
    no method has or that are out of range."""
    parts = parts_of(schema)
    runs = [(keys, i, run) for keys, part in parts for i, run in enumerate(part.slices or [])]
    bases = bool(runs) and all(run.base_model for _, _, run in runs) and not any(part.models for _, part in parts)
    if method.needs_base and not schema.base_model and not bases:
        raise file.error([], f"the key 'base_model' is missing; {method.name} needs one")
    for keys, part in parts:
        if method.needs_base and part.models and all(entry.model == schema.base_model for entry in part.models):
            raise file.error(
                [*keys, "models"], f"no model besides the base {schema.base_model!r}; {method.name} needs one"
            )
    unused: dict[str, list[str]] = {}
    for keys, parameters, of_one_model in parameter_places(schema):
        for name, reason in check_parameters(file, keys, parameters, method, of_one_model=of_one_model):
            unused.setdefault(f"{name!r} {reason}", []).append(file.place([*keys, name]))
    for text, places in unused.items():
        more = f" (and in {len(places) - 1} more places)" if len(places) > 1 else ""
        yield f"{places[0]}: {text}{more}"
    if schema.random_seed is not None:
        yield (
            f"{file.place(['random_seed'])}: 'random_seed' does nothing in a recipe, as in mergekit; --seed "
            f"{schema.random_seed} sets it"
        )
    for keys, i, run in runs:
        if run.residual_weight is not None:
            place = file.place([*keys, "slices", i, "residual_weight"])
            yield f"{place}: 'residual_weight' is read and does nothing, as in mergekit"
