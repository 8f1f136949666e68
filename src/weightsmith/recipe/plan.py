"""A recipe resolved against its models: for every output tensor its sources and final parameter values.

Reads headers only. Whatever does not fit is refused here, before a byte of weight is read.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightsmith.architecture import Model, open_model
from weightsmith.architecture.canonical_config import published
from weightsmith.architecture.fit import fit_text_parts, fit_to
from weightsmith.architecture.layer_numbers import LAYER, count_layers
from weightsmith.architecture.tied import EMBEDDINGS, OUTPUTS, embedding_name, is_tied
from weightsmith.checkpoint.tensor import FLOATS, TensorInfo, dtype_named, natural_key, promoted
from weightsmith.errors import CheckpointError, PlanError
from weightsmith.methods.method import REQUIRED, Method, Settings
from weightsmith.recipe.load import LoadedRecipe
from weightsmith.recipe.parameters import resolve
from weightsmith.recipe.schema import ModelEntry, Slice, SliceSource
from weightsmith.recipe.vocabulary import align_vocabularies
from weightsmith.tokenizer.alignment import Alignment

# Tensors behind the layers come from the last slice, those before them (embeddings) from the first; file order says
# nothing, safetensors files are sorted by name.
_AFTER_LAYERS = re.compile(r"(^|[._])(lm_head|embed_out|output|score|final\w*|norm|ln_f|norm_f)\.")

_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class Source:
    """Where one input of an output tensor is read."""

    model: Model
    tensor: str


@dataclass(frozen=True)
class TensorPlan:
    """One output tensor. `copy` marks integer tensors, taken from the first source as they are."""

    name: str
    info: TensorInfo  # output shape and dtype
    sources: tuple[Source, ...]
    settings: Settings
    round_to: str  # the recipe's `dtype`, through which results pass before `out_dtype`
    copy: bool = False

    @property
    def read_bytes(self) -> int:
        return sum(s.model.checkpoint.tensors[s.tensor].nbytes for s in self.sources)


@dataclass(frozen=True)
class Plan:
    loaded: LoadedRecipe
    method: Method
    models: dict[str, Model]
    home: Model  # gives config and tokenizer
    config: dict[str, Any]
    tensors: tuple[TensorPlan, ...]
    vocabulary: Alignment | None = None  # where the recipe asks for one; its tokenizer is written

    @property
    def output_bytes(self) -> int:
        return sum(tensor.info.nbytes for tensor in self.tensors)

    @property
    def read_bytes(self) -> int:
        return sum(tensor.read_bytes for tensor in self.tensors)


def make_plan(
    loaded: LoadedRecipe, *, mappings: Mapping[str, Path] | None = None, accept_mapping: bool = False,
    opener: Callable[[str, Path], Model] = lambda reference, beside: open_model(reference, beside=beside),
) -> Plan:  # fmt: skip
    """Open every model and resolve every output tensor. `mappings` gives models in a layout of their own the file that maps it
    to the base's; `accept_mapping`: others of that kind are mapped by their values; `opener` opens a
    reference beside a folder. Raises CheckpointError, RecipeError or
    PlanError."""
    recipe = loaded.recipe
    opened: dict[str, Model] = {}
    for reference in references(loaded):
        if reference not in opened:
            try:
                opened[reference] = opener(reference, loaded.file.path.parent)
            except CheckpointError as error:
                raise CheckpointError(f"{_place(loaded, reference)}: {error}") from error
    opened = _fit(loaded, opened, mappings or {}, accept_mapping)
    opened, vocabulary = align_vocabularies(loaded, opened, recipe.base_model)
    layers = {reference: count_layers(model.checkpoint.tensors) for reference, model in opened.items()}
    slices = recipe.slices or [_whole_models(loaded, layers)]
    first_base = slices[0].base_model or recipe.base_model
    home = opened[first_base or slices[0].sources[0].model]
    _check_slices(loaded, slices, layers)
    tensors: list[TensorPlan] = []
    for name in home.checkpoint.tensors:
        if not LAYER.match(name):
            part = slices[-1] if _AFTER_LAYERS.search(name) else slices[0]
            tensors.append(_plan_tensor(loaded, opened, part, name, [name] * len(part.sources), 0.0))
    tensors.extend(_layer_tensors(loaded, opened, slices, home))
    if recipe.slices is None:
        _check_nothing_left(loaded, opened, home)
    ordered = tuple(sorted(tensors, key=lambda tensor: natural_key(tensor.name)))
    config = _output_config(home, slices, sum(_length(part) for part in slices), ordered)
    if (
        vocabulary and vocabulary.home.reference != home.reference
    ):  # the numbers of special tokens go with the tokenizer
        config |= {key: vocabulary.home.config[key] for key in _SPECIAL if key in vocabulary.home.config}
    return Plan(loaded, loaded.method, opened, home, config, ordered, vocabulary)


def _fit(
    loaded: LoadedRecipe, opened: dict[str, Model], mappings: Mapping[str, Path], accept_mapping: bool
) -> dict[str, Model]:
    """All models in the base's names, the first one's where there is no base."""
    if unknown := mappings.keys() - opened.keys():
        raise PlanError(
            f"--mapping names {min(unknown)!r}, which {loaded.file.path} does not; it has: {', '.join(opened)}"
        )
    first = loaded.recipe.base_model or next(iter(opened))
    opened = fit_text_parts(opened)
    for reference in opened.keys() - {first}:
        try:
            opened[reference] = fit_to(
                opened[first], opened[reference], mapping=mappings.get(reference), accept=accept_mapping
            )
        except CheckpointError as error:
            raise CheckpointError(f"{_place(loaded, reference)}: {error}") from error
    return opened


def references(loaded: LoadedRecipe) -> Iterator[str]:
    """Every model reference of a recipe, the base first; some come twice."""
    recipe = loaded.recipe
    if recipe.base_model:
        yield recipe.base_model
    for entry in recipe.models or []:
        yield entry.model
    for part in recipe.slices or []:
        if part.base_model:
            yield part.base_model
        for source in part.sources:
            yield source.model


def _whole_models(loaded: LoadedRecipe, layers: dict[str, int]) -> Slice:
    recipe = loaded.recipe
    entries: list[ModelEntry] = list(recipe.models or [])
    if recipe.base_model and recipe.base_model not in [entry.model for entry in entries]:
        entries.append(ModelEntry(model=recipe.base_model))
    sources = [
        SliceSource(model=e.model, parameters=e.parameters, layer_range=(0, max(1, layers[e.model]))) for e in entries
    ]
    return Slice(sources=sources)


def _length(part: Slice) -> int:
    first, last = part.sources[0].layer_range
    return last - first


def _check_slices(loaded: LoadedRecipe, slices: list[Slice], layers: dict[str, int]) -> None:
    fewest, most = loaded.method.inputs
    for i, part in enumerate(slices):
        keys = ["slices", i] if loaded.recipe.slices else ["models"]
        names = [source.model for source in part.sources]
        base = part.base_model or loaded.recipe.base_model
        if len(names) < fewest or (most and len(names) > most):
            wanted = f"{fewest}" if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}"
            raise loaded.file.error(
                keys, f"{loaded.method.name} takes {wanted} model(s), base included; here are {len(names)}"
            )
        if len(set(names)) < len(names):
            raise loaded.file.error(keys, f"the model {max(names, key=names.count)!r} is listed twice")
        if loaded.method.needs_base and base not in names:
            raise loaded.file.error(keys, f"the base model {base!r} is not among this slice's sources")
        for j, source in enumerate(part.sources):
            first, last = source.layer_range
            if last - first != _length(part):
                raise loaded.file.error(
                    [*keys, *(["sources", j] if loaded.recipe.slices else [j])],
                    f"{source.model} gives {last - first} layers where {names[0]} gives {_length(part)}",
                )
            if last > max(1, layers[source.model]):
                raise loaded.file.error(
                    [*keys, "sources", j, "layer_range"],
                    f"layer_range ends at {last}; {source.model} has {layers[source.model]} layers",
                )


def _layer_tensors(
    loaded: LoadedRecipe, opened: dict[str, Model], slices: list[Slice], home: Model
) -> Iterator[TensorPlan]:
    """Each output layer has the tensors of the layer it comes from in its slice's base (or first) model."""
    number = 0
    for part in slices:
        base = part.base_model or loaded.recipe.base_model
        names = [source.model for source in part.sources]
        lead = part.sources[names.index(base) if base in names else 0]
        by_layer: dict[int, list[tuple[str, str]]] = {}
        for tensor in opened[lead.model].checkpoint.tensors:
            if match := LAYER.match(tensor):
                by_layer.setdefault(int(match[2]), []).append((match[1], match[3]))
        count = _length(part)
        for offset in range(count):
            t = offset / (count - 1) if count > 1 else 1.0
            for prefix, suffix in by_layer.get(lead.layer_range[0] + offset, []):
                inputs = [f"{prefix}{source.layer_range[0] + offset}{suffix}" for source in part.sources]
                yield _plan_tensor(loaded, opened, part, f"{prefix}{number}{suffix}", inputs, t)
            number += 1


def _plan_tensor(
    loaded: LoadedRecipe, opened: dict[str, Model], part: Slice, name: str, inputs: list[str], t: float
) -> TensorPlan:
    recipe, method = loaded.recipe, loaded.method
    base_name = part.base_model or recipe.base_model
    sources = tuple(_source(loaded, opened[s.model], tensor) for s, tensor in zip(part.sources, inputs, strict=True))
    infos = [s.model.checkpoint.tensors[s.tensor] for s in sources]
    names = [source.model for source in part.sources]
    base = names.index(base_name) if base_name in names else None
    lead = base or 0
    for source, info in zip(sources, infos, strict=True):
        if info.shape != infos[lead].shape:
            if name.endswith((*EMBEDDINGS, *OUTPUTS)) and info.shape[1:] == infos[lead].shape[1:]:
                raise PlanError(
                    f"{_place(loaded, source.model.reference)}: the vocabularies differ: {infos[lead].shape[0]} rows in "
                    f"{sources[lead].model.reference}, {info.shape[0]} in {source.model.reference} ({name}). Say whose to use: "
                    "tokenizer_source: union (all tokens of all models), base (the base model's) or a model; `weightsmith "
                    "inspect --recipe` lists the tokens that differ"
                )
            raise PlanError(
                f"{_place(loaded, source.model.reference)}: tensor {name!r} is {list(infos[lead].shape)} in {sources[lead].model.reference} and "
                f"{list(info.shape)} in {source.model.reference}; only models of one shape can be merged"
            )
    outer = [part.parameters, recipe.parameters]
    shared: dict[str, Any] = {}
    per_input: list[dict[str, Any]] = [{} for _ in names]
    for parameter in method.parameters:
        if parameter.scope == "shared":
            shared[parameter.name] = resolve(parameter, outer, name, t)
            if shared[parameter.name] is REQUIRED:
                raise loaded.file.error(
                    ["parameters"], f"the parameter {parameter.name!r} of {method.name} has no value"
                )
            continue
        for i, source in enumerate(part.sources):
            if parameter.scope == "non_base" and i == base:
                continue
            value = resolve(parameter, [source.parameters, *outer], inputs[i], t)
            if value is REQUIRED:
                raise loaded.file.error(
                    _entry_keys(loaded, source.model)[:2],
                    f"the parameter {parameter.name!r} of {method.name} has no value for {source.model} (tensor {inputs[i]})",
                )
            per_input[i][parameter.name] = value
    widest = promoted(info.dtype for info in infos)
    settings = Settings(shared, tuple(per_input), base)
    if objection := method.objection(settings):
        raise loaded.file.error(["parameters"], f"{method.name}: {objection} (tensor {name})")
    if widest not in FLOATS:
        return TensorPlan(name, infos[lead], (sources[lead],), settings, infos[lead].dtype, copy=True)
    round_to = dtype_named(recipe.dtype) if recipe.dtype else widest
    out = dtype_named(recipe.out_dtype) if recipe.out_dtype else round_to
    return TensorPlan(name, TensorInfo(infos[0].shape, out), sources, settings, round_to)


def _entry_keys(loaded: LoadedRecipe, reference: str) -> list[str | int]:
    """Where the recipe names a model, most telling place first."""
    for i, entry in enumerate(loaded.recipe.models or []):
        if entry.model == reference:
            return ["models", i, "model"]
    for i, part in enumerate(loaded.recipe.slices or []):
        for j, source in enumerate(part.sources):
            if source.model == reference:
                return ["slices", i, "sources", j, "model"]
    return ["base_model"]


def _place(loaded: LoadedRecipe, reference: str) -> str:
    """`recipe.yml:4`, the line that names the model."""
    return f"{loaded.file.path}:{loaded.file.line(_entry_keys(loaded, reference))}"


def _source(loaded: LoadedRecipe, model: Model, tensor: str) -> Source:
    if tensor in model.checkpoint.tensors:
        return Source(model, tensor)
    twin = embedding_name(model.checkpoint.tensors)
    if twin and tensor.endswith(OUTPUTS) and is_tied(model.config):
        return Source(model, twin)
    raise PlanError(
        f"{_place(loaded, model.reference)}: tensor {tensor!r} is required and not in {model.reference}; its layer names or its depth differ from the "
        "other models'. `weightsmith inspect --recipe` says what would map the names; --accept-mapping uses it"
    )


def _check_nothing_left(loaded: LoadedRecipe, opened: dict[str, Model], home: Model) -> None:
    for model in opened.values():
        for tensor in model.checkpoint.tensors:
            if tensor not in home.checkpoint.tensors and not (tensor.endswith(OUTPUTS) and is_tied(home.config)):
                raise PlanError(
                    f"{_place(loaded, model.reference)}: tensor {tensor!r} of {model.reference} has no counterpart in {home.reference}, which gives the merged "
                    "model its shape; the two cannot be merged"
                )


def _output_config(home: Model, slices: list[Slice], depth: int, tensors: tuple[TensorPlan, ...]) -> dict[str, Any]:
    config = copy.deepcopy(home.config)
    old = config.get("num_hidden_layers")
    if (old is not None and slices[0].sources[0].layer_range != (0, old)) or len(slices) > 1:
        taken = [n for part in slices for n in range(*part.sources[0].layer_range)]
        for key, value in config.items():  # per-layer lists such as layer_types follow their layers
            if isinstance(value, list) and len(value) == old:
                config[key] = [value[n] for n in taken]
        config["num_hidden_layers"] = depth
    return published(config, [t.info for t in tensors if not t.copy])
