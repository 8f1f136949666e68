"""Slices: which layers of which models make which layers of the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weightsmith.recipe.recipe import Recipe
from weightsmith.recipe.recipe_schema import ModelEntry, Slice, SliceSource


def whole_models(base_model: str | None, models: Sequence[ModelEntry], layers: Mapping[str, int]) -> Slice:
    """One slice of all layers of `models`, the base among them. `layers`: reference -> number of layers."""
    entries: list[ModelEntry] = list(models)
    if base_model and base_model not in [entry.model for entry in entries]:
        entries.append(ModelEntry(model=base_model))
    sources = [
        SliceSource(model=e.model, parameters=e.parameters, layer_range=(0, max(1, layers[e.model]))) for e in entries
    ]
    return Slice(sources=sources)


def layers_of(part: Slice) -> int:
    """How many output layers a slice makes."""
    first, last = part.sources[0].layer_range
    return last - first


def check_slices(
    recipe: Recipe, owner: Sequence[str | int], slices: list[Slice], layers: Mapping[str, int], *, cut: bool
) -> None:
    """Raises RecipeError for too few or too many models, a base that is missing, and layers that do not fit. `owner`:
    the keys of what has the slices; `cut`: it was written as `slices`, else as `models`."""
    fewest, most = recipe.method.inputs
    for i, part in enumerate(slices):
        keys = [*owner, "slices", i] if cut else [*owner, "models"]
        references = [source.model for source in part.sources]
        base = part.base_model or recipe.schema.base_model
        if len(references) < fewest or (most and len(references) > most):
            raise recipe.file.error(
                keys,
                f"{recipe.method.name} takes {recipe.method.input_count} model(s), base included; this slice has "
                f"{len(references)}",
            )
        if len(set(references)) < len(references):
            raise recipe.file.error(keys, f"the model {max(references, key=references.count)!r} is listed twice")
        if recipe.method.needs_base and base not in references:
            raise recipe.file.error(keys, f"the base model {base!r} is not among this slice's sources")
        for j, source in enumerate(part.sources):
            first, last = source.layer_range
            if last - first != layers_of(part):
                raise recipe.file.error(
                    [*keys, *(["sources", j] if cut else [j])],
                    f"{source.model} gives {last - first} layers where {references[0]} gives {layers_of(part)}",
                )
            if last > max(1, layers[source.model]):
                raise recipe.file.error(
                    [*keys, "sources", j, "layer_range"],
                    f"layer_range ends at {last}; {source.model} has {layers[source.model]} layers",
                )
