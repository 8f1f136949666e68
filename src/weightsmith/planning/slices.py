"""Slices: which layers of which models make which layers of the output."""

from __future__ import annotations

from weightsmith.recipe.recipe import LoadedRecipe, ModelEntry, Slice, SliceSource


def whole_models(loaded: LoadedRecipe, layers: dict[str, int]) -> Slice:
    """One slice of all layers of `models`, the base among them. `layers`: reference -> number of layers."""
    recipe = loaded.recipe
    entries: list[ModelEntry] = list(recipe.models or [])
    if recipe.base_model and recipe.base_model not in [entry.model for entry in entries]:
        entries.append(ModelEntry(model=recipe.base_model))
    sources = [
        SliceSource(model=e.model, parameters=e.parameters, layer_range=(0, max(1, layers[e.model]))) for e in entries
    ]
    return Slice(sources=sources)


def layers_of(part: Slice) -> int:
    """How many output layers a slice makes."""
    first, last = part.sources[0].layer_range
    return last - first


def check_slices(loaded: LoadedRecipe, slices: list[Slice], layers: dict[str, int]) -> None:
    """Raises RecipeError for too few or too many models, a base that is missing, and layers that do not fit."""
    fewest, most = loaded.method.inputs
    for i, part in enumerate(slices):
        keys = ["slices", i] if loaded.recipe.slices else ["models"]
        references = [source.model for source in part.sources]
        base = part.base_model or loaded.recipe.base_model
        if len(references) < fewest or (most and len(references) > most):
            expected = f"{fewest}" if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}"
            raise loaded.file.error(
                keys, f"{loaded.method.name} takes {expected} model(s), base included; this slice has {len(references)}"
            )
        if len(set(references)) < len(references):
            raise loaded.file.error(keys, f"the model {max(references, key=references.count)!r} is listed twice")
        if loaded.method.needs_base and base not in references:
            raise loaded.file.error(keys, f"the base model {base!r} is not among this slice's sources")
        for j, source in enumerate(part.sources):
            first, last = source.layer_range
            if last - first != layers_of(part):
                raise loaded.file.error(
                    [*keys, *(["sources", j] if loaded.recipe.slices else [j])],
                    f"{source.model} gives {last - first} layers where {references[0]} gives {layers_of(part)}",
                )
            if last > max(1, layers[source.model]):
                raise loaded.file.error(
                    [*keys, "sources", j, "layer_range"],
                    f"layer_range ends at {last}; {source.model} has {layers[source.model]} layers",
                )
