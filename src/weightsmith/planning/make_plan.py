"""A recipe resolved against its models, from headers alone. What does not fit is refused here, before a weight is
read."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from weightsmith.checkpoint.checkpoint import natural_key
from weightsmith.errors import CheckpointError, PlanError
from weightsmith.methods.depth_scaling import scaled
from weightsmith.models.companion_files import check_tokenizer
from weightsmith.models.configs.compare_settings import compare_settings
from weightsmith.models.fit_to_base import fit_text_parts, fit_to
from weightsmith.models.model import Model
from weightsmith.models.naming.translate_config import published
from weightsmith.models.open_model import open_model
from weightsmith.models.parts.embeddings import embedding_name, is_tied, output_name, untied
from weightsmith.models.parts.stacks import LAYER, Stack, Stacks, find_stacks
from weightsmith.planning.align_vocabularies import align_vocabularies
from weightsmith.planning.check_texts import check_texts
from weightsmith.planning.choose_template import choose_template
from weightsmith.planning.modules import ModulePlan, resolve_modules
from weightsmith.planning.output_config import checked_config, restacked_config
from weightsmith.planning.plan import Plan, TensorPlan
from weightsmith.planning.plan_tensor import TensorPlanner
from weightsmith.planning.slices import check_slices, layers_of
from weightsmith.recipe.parameters import filters_in, matches
from weightsmith.recipe.recipe import Recipe, model_places, model_references, parameter_places, parts_of
from weightsmith.recipe.recipe_schema import Slice
from weightsmith.tokenizer.merged_tokenizer import tokenizer_model
from weightsmith.tokenizer.untrusted.try_tokenizer import try_tokenizer

# What lies before the layers (embeddings, towers of images and sound) comes from the first slice, what lies behind them
# (norms, heads) from the last; file order says nothing, safetensors files are sorted by name.
_BEFORE_LAYERS = re.compile(
    r"(^|[._])(embed(?!_out)\w*|\w*embeddings?|\w*embeddings_layernorm|wte|wpe|project_in|per_layer_\w+|altup_proj\w*"
    r"|vision\w*|visual\w*|image\w*|audio\w*|speech\w*|\w*projector|connector|multi_modal\w*|aligner|rotary_\w+)\."
)
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def make_plan(
    recipe: Recipe,
    *,
    mappings: Mapping[str, Path] | None = None,
    accept_mapping: bool = False,
    allow_different_settings: bool = False,
    opener: Callable[[str, Path], Model] = lambda reference, beside: open_model(reference, beside=beside),
) -> Plan:
    """Open every model and resolve every output tensor. `mappings` gives models with unknown names the file that maps
    them to the base's; `accept_mapping`: others of that kind are mapped by their values; `allow_different_settings`:
    models whose config.json makes them different functions are merged all the same; `opener` opens a reference
    beside a folder. Raises CheckpointError, RecipeError or PlanError."""
    schema = recipe.schema
    models = _fit(recipe, _open_models(recipe, opener), mappings or {}, accept_mapping)
    models, vocabulary = align_vocabularies(recipe, models, schema.base_model)
    stacks = {reference: find_stacks(model.checkpoint.tensors, model.config) for reference, model in models.items()}
    layers = {reference: found.depth for reference, found in stacks.items()}
    home = models[_shape_giver(recipe)]
    modules, apart = resolve_modules(recipe, home, stacks[home.reference], layers)
    for module in modules:
        depths = {reference: _depth_in(found, module.stack) for reference, found in stacks.items()}
        check_slices(recipe, module.keys, module.slices, depths, cut=module.stack is not None)
    check_texts(recipe, home)
    check_tokenizer(tokenizer_model(home, vocabulary).home)
    if vocabulary and (vocabulary.added or vocabulary.cut_to is not None):
        try_tokenizer(vocabulary.home.home)  # it is going to be changed
    planner = TensorPlanner(recipe, models)
    tensors = [planner.copy(home.reference, name) for name in apart]
    for module in modules:
        tensors += _tensors_outside(planner, module, home, stacks[home.reference])
        if module.stack:
            tensors += _tensors_of_layers(planner, module, module.stack, stacks)
    ordered = tuple(_with_depths(sorted(tensors, key=lambda tensor: natural_key(tensor.name))))
    cut = [(module.slices, module.stack) for module in modules if module.stack]
    if not cut:
        _check_nothing_left(recipe, models, home, stacks, {tensor.name for tensor in ordered})
    config, warnings = home.config, recipe.warnings
    for slices, stack in cut:
        taken = [n for part in slices for n in range(*part.sources[0].layer_range)]
        config = restacked_config(recipe, home, config, stack, taken)
    if home.reference in recipe.architectures:
        config = config | {"architectures": [recipe.architectures[home.reference]]}
    if vocabulary and vocabulary.home.reference != home.reference:  # the ids of special tokens go with the tokenizer
        config = config | {key: vocabulary.home.config[key] for key in _SPECIAL if key in vocabulary.home.config}
    if not output_name(home.checkpoint.tensors) and output_name(tensor.name for tensor in ordered):
        config = untied(config)
        warnings += (_about_untied(models, home),)
    settings = _of_settings(recipe, models, home, allow_different_settings)
    warnings += (
        *settings,
        *_of_quantized(models),
        *_of_few_directions(recipe, models),
        *_about_apart(home, apart),
        *planner.warnings,
        *_of_filters(recipe, ordered),
    )
    if home.is_state_dict:
        if schema.chat_template is not None:
            raise recipe.file.error(
                ["chat_template"], "files of weights alone have no tokenizer that it could belong to"
            )
        return Plan(recipe, recipe.method, models, home, {}, ordered, None, warnings)
    config = published(config, [tensor.info for tensor in ordered if not tensor.copy])
    config, unchecked = checked_config(recipe, home, config, ordered, cut[0][1] if len(cut) == 1 else None)
    warnings += unchecked
    template, about_template = choose_template(recipe, models, home, vocabulary)
    warnings += about_template
    return Plan(recipe, recipe.method, models, home, config, ordered, vocabulary, warnings, template)


def _shape_giver(recipe: Recipe) -> str:
    """The reference of the model that gives the output its configuration."""
    _, part = parts_of(recipe.schema)[0]
    first = part.slices[0].base_model if part.slices else None
    return first or recipe.schema.base_model or next(model_places(recipe.schema)).reference


def _depth_in(found: Stacks, stack: Stack | None) -> int:
    """Layers that a model has in the stack of that prefix, else in its main one."""
    own = found.stacks.get(stack.prefix) if stack else None
    return own.depth if own else found.depth


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
    if mixed := [
        reference for reference, model in models.items() if model.is_state_dict != models[first].is_state_dict
    ]:
        raise PlanError(
            f"{recipe.line_of(mixed[0])}: {first} and {mixed[0]}: one is a file of weights without a configuration, "
            "the other is a model; name the folders of both",
            **recipe.place_of(mixed[0]),
        )
    models = fit_text_parts(models, models[first])
    for reference in models.keys() - {first}:
        mapping = mappings.get(reference)
        try:
            models[reference] = fit_to(models[first], models[reference], mapping=mapping, accept=accept_mapping)
        except CheckpointError as error:
            raise CheckpointError(f"{recipe.line_of(reference)}: {error}", **recipe.place_of(reference)) from error
    return models


def _tensors_outside(planner: TensorPlanner, module: ModulePlan, home: Model, stacks: Stacks) -> Iterator[TensorPlan]:
    """All tensors of a module but the layers of the stack that its slices cut."""
    main, slices = module.stack, module.slices
    names = [
        name
        for name, info in home.checkpoint.tensors.items()
        if name in module.names
        and not (main and (place := stacks.layer_of(name)) and place[0] == main)
        and (info.is_float or all(name in model.checkpoint.tensors for model in planner.models.values()))
    ]
    embedding = embedding_name(home.checkpoint.tensors)
    if embedding in module.names and (output := _untied_output(planner, slices[-1], home)):
        names.append(output)
    may_lack = frozenset().union(*(model.lacks for model in planner.models.values()))
    for name in names:
        part = slices[0] if main is None or _BEFORE_LAYERS.search(name) else slices[-1]
        optional = stacks.is_further(name) or name in may_lack
        target = _behind(name, main, slices) if main else name
        inputs = [name] * len(part.sources)
        yield planner.plan(part, target, inputs, stacks.depth_of(name), outer=module.parameters, optional=optional)


def _behind(name: str, main: Stack, slices: list[Slice]) -> str:
    """The name of a tensor of a layer behind those that slices cut: the depth may be another one now."""
    match = LAYER.match(name)
    if match is None or match[1] != main.prefix:
        return name
    return f"{main.prefix}{int(match[2]) - main.depth + sum(map(layers_of, slices))}{match[3]}"


def _untied_output(planner: TensorPlanner, last: Slice, home: Model) -> str | None:
    """The output matrix that a model has of its own, where `home` ties its own to the embedding."""
    if output_name(home.checkpoint.tensors):
        return None
    sources = (planner.models[source.model].checkpoint.tensors for source in last.sources)
    output = next((output for tensors in sources if (output := output_name(tensors))), None)
    return output if output and is_tied(home.config) else None


def _tensors_of_layers(
    planner: TensorPlanner, module: ModulePlan, main: Stack, stacks: Mapping[str, Stacks]
) -> Iterator[TensorPlan]:
    """Each output layer has the tensors of the layer it comes from in its slice's base (or first) model."""
    number = 0
    for part in module.slices:
        base = part.base_model or planner.recipe.schema.base_model
        references = [source.model for source in part.sources]
        lead = part.sources[references.index(base) if base in references else 0]
        stack = stacks[lead.model].stacks.get(main.prefix) or stacks[lead.model].main or main
        first = stack.numbers[0]
        count = layers_of(part)
        for offset in range(count):
            t = offset / (count - 1) if count > 1 else 1.0
            for suffix in sorted(stack.suffixes[first + lead.layer_range[0] + offset]):
                inputs = [f"{stack.prefix}{first + source.layer_range[0] + offset}{suffix}" for source in part.sources]
                yield planner.plan(part, f"{stack.prefix}{first + number}{suffix}", inputs, t, outer=module.parameters)
            number += 1


def _with_depths(tensors: Sequence[TensorPlan]) -> Iterator[TensorPlan]:
    """With the depth of the output's layer that each is in."""
    places = {tensor.name: match for tensor in tensors if (match := LAYER.match(tensor.name))}
    stacks: dict[str, set[int]] = defaultdict(set)
    for place in places.values():
        stacks[place[1]].add(int(place[2]))
    for tensor in tensors:
        place, settings = places.get(tensor.name), tensor.settings
        if place and len(numbers := stacks[place[1]]) > 1:
            first, last = min(numbers), max(numbers)
            settings = replace(settings, depth=(int(place[2]) - first) / (last - first))
        yield replace(tensor, settings=scaled(settings))


def _about_apart(home: Model, names: Sequence[str]) -> Iterator[str]:
    if names:
        yield (
            f"{len(names)} tensors are in no module of the recipe, such as {names[0]}; they are taken from "
            f"{home.reference} as they are"
        )


def _of_settings(recipe: Recipe, models: Mapping[str, Model], home: Model, allowed: bool) -> Iterator[str]:
    """What the models' config.json say differently about weights of the same shapes. Raises PlanError."""
    for reference, model in models.items():
        differences = compare_settings(home.config, model.config) if model is not home else []
        breaking = [str(difference) for difference in differences if difference.breaks]
        if breaking and not allowed:
            raise PlanError(
                f"{recipe.line_of(reference)}: {reference} is another function than {home.reference}, although its "
                f"tensors have the same shapes: its config.json says {', '.join(breaking)}. Choose fine-tunes of one "
                "model; --allow-different-settings merges them all the same",
                **recipe.place_of(reference),
            )
        if differences:
            said = ", ".join(map(str, differences))
            yield f"{reference}: its config.json says {said}; the merged model has the settings of {home.reference}"


def _of_filters(recipe: Recipe, tensors: Sequence[TensorPlan]) -> Iterator[str]:
    """Filters that apply to no tensor."""
    names = {tensor.name for tensor in tensors} | {source.tensor for tensor in tensors for source in tensor.sources}
    for keys, parameters, _ in parameter_places(recipe.schema):
        for inner, text in filters_in(parameters):
            if not any(matches(text, name) for name in names):
                yield f"{recipe.file.place([*keys, *inner])}: the filter {text!r} matches no tensor, and does nothing"


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


def _of_few_directions(recipe: Recipe, models: Mapping[str, Model]) -> Iterator[str]:
    if recipe.method.flattens and (adapted := [reference for reference, model in models.items() if model.lora_ranks]):
        ranks = max(sum(models[reference].lora_ranks) for reference in adapted)
        yield (
            f"{recipe.file.path}: {recipe.method.name} gives each direction of a merged task vector the mean over all "
            f"that a weight has room for; the task vectors of {', '.join(adapted)} have few (rank {ranks} at most), so "
            f"that little is left of any. core_space with `rule: {recipe.method.name}` takes the mean over those alone"
        )


def _check_nothing_left(
    recipe: Recipe, models: dict[str, Model], home: Model, stacks: Mapping[str, Stacks], planned: set[str]
) -> None:
    for reference, model in models.items():
        for tensor, info in model.checkpoint.tensors.items():
            if tensor not in planned and info.is_float and not stacks[reference].is_further(tensor):
                raise PlanError(
                    f"{recipe.line_of(model.reference)}: tensor {tensor!r} of {model.reference} has no counterpart in "
                    f"{home.reference}, which gives the merged model its shape; the two cannot be merged",
                    **recipe.place_of(model.reference),
                )
