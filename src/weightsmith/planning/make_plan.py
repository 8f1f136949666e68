"""A recipe resolved against its models, from headers alone. What does not fit is refused here, before a weight is
read."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.checkpoint import natural_key
from weightsmith.errors import CheckpointError, PlanError
from weightsmith.models.embeddings import is_tied, output_name, untied
from weightsmith.models.fit_to_base import fit_text_parts, fit_to
from weightsmith.models.layer_numbers import LAYER, count_layers
from weightsmith.models.model import Model
from weightsmith.models.naming.translate_config import published
from weightsmith.models.open_model import open_model
from weightsmith.planning.align_vocabularies import align_vocabularies
from weightsmith.planning.plan import Plan, TensorPlan
from weightsmith.planning.plan_tensor import TensorPlanner
from weightsmith.planning.slices import check_slices, layers_of, whole_models
from weightsmith.recipe.recipe import Recipe, load_recipe
from weightsmith.recipe.recipe_schema import Slice

# Tensors behind the layers come from the last slice, those before them (embeddings) from the first; file order says
# nothing, safetensors files are sorted by name.
_AFTER_LAYERS = re.compile(r"(^|[._])(lm_head|embed_out|output|score|final\w*|norm|ln_f|norm_f)\.")
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def make_plan(
    recipe: Recipe,
    *,
    mappings: Mapping[str, Path] | None = None,
    accept_mapping: bool = False,
    opener: Callable[[str, Path], Model] = lambda reference, beside: open_model(reference, beside=beside),
) -> Plan:
    """Open every model and resolve every output tensor. `mappings` gives models with unknown names the file that maps
    them to the base's; `accept_mapping`: others of that kind are mapped by their values; `opener` opens a reference
    beside a folder. Raises CheckpointError, RecipeError or PlanError."""
    schema = recipe.schema
    models = _fit(recipe, _open_models(recipe, opener), mappings or {}, accept_mapping)
    models, vocabulary = align_vocabularies(recipe, models, schema.base_model)
    layers = {reference: count_layers(model.checkpoint.tensors) for reference, model in models.items()}
    slices = schema.slices or [whole_models(recipe, layers)]
    home = models[slices[0].base_model or schema.base_model or slices[0].sources[0].model]
    check_slices(recipe, slices, layers)
    planner = TensorPlanner(recipe, models)
    tensors = [*_tensors_outside_layers(planner, slices, home), *_tensors_of_layers(planner, slices)]
    ordered = tuple(sorted(tensors, key=lambda tensor: natural_key(tensor.name)))
    if schema.slices is None:
        _check_nothing_left(recipe, models, home, {tensor.name for tensor in ordered})
    config, warnings = _output_config(home, slices, ordered), ()
    if vocabulary and vocabulary.home.reference != home.reference:  # the ids of special tokens go with the tokenizer
        config |= {key: vocabulary.home.config[key] for key in _SPECIAL if key in vocabulary.home.config}
    if not output_name(home.checkpoint.tensors) and output_name(tensor.name for tensor in ordered):
        config = untied(config)
        warnings += (_about_untied(models, home),)
    warnings += (*_of_quantized(models), *planner.warnings)
    return Plan(recipe, recipe.method, models, home, config, ordered, vocabulary, warnings)


def plan(
    recipe: Recipe | Path | str | Mapping[str, Any],
    *,
    mappings: Mapping[str, Path] | None = None,
    accept_mapping: bool = False,
) -> Plan:
    """What a merge would do: for every output tensor its sources and the values of all parameters. No weight is read.

    `recipe`: a `Recipe`, a file, or a mapping; `mappings` and `accept_mapping` as in `merge`. `print(plan(...))` shows
    a line per tensor. Raises CheckpointError, RecipeError or PlanError for all that a merge would refuse.

    >>> print(ws.plan("ties.yml"))  # doctest: +ELLIPSIS
    ties: 3 models, 20 tensors
    model.embed_tokens.weight [49152, 64] BF16: coder (weight 1, density 0.5), writer (weight 1, density 0.5), ...
    """
    return make_plan(load_recipe(recipe), mappings=mappings, accept_mapping=accept_mapping)


def model_references(recipe: Recipe) -> Iterator[str]:
    """Every model reference of a recipe, the base first; some come twice."""
    schema = recipe.schema
    if schema.base_model:
        yield schema.base_model
    for entry in schema.models or []:
        yield entry.model
    for part in schema.slices or []:
        if part.base_model:
            yield part.base_model
        for source in part.sources:
            yield source.model


def _open_models(recipe: Recipe, opener: Callable[[str, Path], Model]) -> dict[str, Model]:
    models: dict[str, Model] = {}
    for reference in model_references(recipe):
        if reference not in models:
            try:
                models[reference] = opener(reference, recipe.file.path.parent)
            except CheckpointError as error:
                raise CheckpointError(f"{recipe.line_of(reference)}: {error}", **recipe.place_of(reference)) from error
    return models


def _fit(
    recipe: Recipe, models: dict[str, Model], mappings: Mapping[str, Path], accept_mapping: bool
) -> dict[str, Model]:
    """All models in the base's names, or the first one's if there is no base."""
    if unknown := mappings.keys() - models.keys():
        raise PlanError(
            f"--mapping names {min(unknown)!r}, which {recipe.file.path} does not; it has: {', '.join(models)}"
        )
    first = recipe.schema.base_model or next(iter(models))
    models = fit_text_parts(models)
    for reference in models.keys() - {first}:
        mapping = mappings.get(reference)
        try:
            models[reference] = fit_to(models[first], models[reference], mapping=mapping, accept=accept_mapping)
        except CheckpointError as error:
            raise CheckpointError(f"{recipe.line_of(reference)}: {error}", **recipe.place_of(reference)) from error
    return models


def _tensors_outside_layers(planner: TensorPlanner, slices: list[Slice], home: Model) -> Iterator[TensorPlan]:
    names = [name for name in home.checkpoint.tensors if not LAYER.match(name)]
    if output := _untied_output(planner, slices[-1], home):
        names.append(output)
    for name in names:
        part = slices[-1] if _AFTER_LAYERS.search(name) else slices[0]
        yield planner.plan(part, name, [name] * len(part.sources), 0.0)


def _untied_output(planner: TensorPlanner, last: Slice, home: Model) -> str | None:
    """The output matrix that a model has of its own, where `home` ties its own to the embedding."""
    if output_name(home.checkpoint.tensors) or not is_tied(home.config):
        return None
    sources = (planner.models[source.model].checkpoint.tensors for source in last.sources)
    return next((output for tensors in sources if (output := output_name(tensors))), None)


def _tensors_of_layers(planner: TensorPlanner, slices: list[Slice]) -> Iterator[TensorPlan]:
    """Each output layer has the tensors of the layer it comes from in its slice's base (or first) model."""
    number = 0
    for part in slices:
        base = part.base_model or planner.recipe.schema.base_model
        references = [source.model for source in part.sources]
        lead = part.sources[references.index(base) if base in references else 0]
        by_layer: dict[int, list[tuple[str, str]]] = {}
        for tensor in planner.models[lead.model].checkpoint.tensors:
            if match := LAYER.match(tensor):
                by_layer.setdefault(int(match[2]), []).append((match[1], match[3]))
        count = layers_of(part)
        for offset in range(count):
            t = offset / (count - 1) if count > 1 else 1.0
            for prefix, suffix in by_layer.get(lead.layer_range[0] + offset, []):
                inputs = [f"{prefix}{source.layer_range[0] + offset}{suffix}" for source in part.sources]
                yield planner.plan(part, f"{prefix}{number}{suffix}", inputs, t)
            number += 1


def _about_untied(models: Mapping[str, Model], home: Model) -> str:
    own = [reference for reference, model in models.items() if output_name(model.checkpoint.tensors)]
    return (
        f"{', '.join(own)} has an output matrix of its own, {home.reference} ties it to the embedding: the merged "
        "model has its own, and its config.json says tie_word_embeddings: false"
    )


def _of_quantized(models: Mapping[str, Model]) -> Iterator[str]:
    if quantized := [reference for reference, model in models.items() if model.quantization]:
        yield (
            f"{', '.join(quantized)}: decoding does not bring back what quantizing took from the weights; merge the "
            "unquantized models where you have them"
        )


def _check_nothing_left(recipe: Recipe, models: dict[str, Model], home: Model, planned: set[str]) -> None:
    for model in models.values():
        for tensor in model.checkpoint.tensors:
            if tensor not in planned:
                raise PlanError(
                    f"{recipe.line_of(model.reference)}: tensor {tensor!r} of {model.reference} has no counterpart in "
                    f"{home.reference}, which gives the merged model its shape; the two cannot be merged",
                    **recipe.place_of(model.reference),
                )


def _output_config(home: Model, slices: list[Slice], tensors: tuple[TensorPlan, ...]) -> dict[str, Any]:
    config = copy.deepcopy(home.config)
    old = config.get("num_hidden_layers")
    if (old is not None and slices[0].sources[0].layer_range != (0, old)) or len(slices) > 1:
        taken = [n for part in slices for n in range(*part.sources[0].layer_range)]
        for key, value in config.items():  # per-layer lists such as layer_types follow their layers
            if isinstance(value, list) and len(value) == old:
                config[key] = [value[n] for n in taken]
        config["num_hidden_layers"] = len(taken)
    return published(config, [tensor.info for tensor in tensors if not tensor.copy])
