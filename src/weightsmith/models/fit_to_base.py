"""A model brought to the names of its base, where its own are not those that transformers has today."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.views.row_mapped import RowMap, RowMappedCheckpoint, ordered
from weightsmith.errors import CheckpointError
from weightsmith.files.inputs.read_input import read_json
from weightsmith.models.model import Model
from weightsmith.models.multimodal import as_text_part_of, text_names, text_part
from weightsmith.models.naming.expert_forms import as_fused, as_split, expert_form, fused_names, split_form
from weightsmith.models.naming.framework_prefixes import match_names
from weightsmith.models.naming.map_tensors import map_rows
from weightsmith.models.naming.scheme import MAPPING, Scheme, parse_scheme
from weightsmith.models.parts.embeddings import OUTPUTS, is_tied
from weightsmith.models.parts.stacks import check_layers, find_stacks


def names_differ(base: Model, other: Model) -> tuple[list[str], list[str]]:
    """(tensors only the base has, tensors only the other has), an output matrix that is tied in one of them aside, and
    layers that predict further tokens, and buffers of integers."""
    base_names, other_names = _weights(base) - other.lacks, _weights(other)
    only = []
    for model, names in ((base, base_names - other_names), (other, other_names - base_names)):
        if names:
            stacks = find_stacks(model.checkpoint.tensors, model.config)
            names = {name for name in names if not stacks.is_further(name)}
        if any(name.endswith(OUTPUTS) for name in names) and (is_tied(base.config) or is_tied(other.config)):
            names = {name for name in names if not name.endswith(OUTPUTS)}
        only.append(sorted(names))
    return only[0], only[1]


def _weights(model: Model) -> set[str]:
    return {name for name, info in model.checkpoint.tensors.items() if info.is_float}


def fit_text_parts(models: dict[str, Model], first: Model | None = None) -> dict[str, Model]:
    """Where language models and multimodal ones are merged: the latter's language models alone, if the first model is a
    language model; else language models as parts of the first, which keeps its other parts."""
    wrapped = {reference: bool(text_names(model.checkpoint.tensors)) for reference, model in models.items()}
    if all(wrapped.values()) or not any(wrapped.values()):
        return models
    first = next(iter(models.values())) if first is None else first
    if wrapped[first.reference]:
        return {r: model if wrapped[r] else as_text_part_of(first, model) for r, model in models.items()}
    return {reference: text_part(model) if wrapped[reference] else model for reference, model in models.items()}


def fit_to(base: Model, other: Model, *, mapping: Path | None = None, accept: bool = False) -> Model:
    """`other` under the base's names: unchanged where they agree, by the file `mapping`, or, with `accept`, by the
    mapping that the values of the weights propose. Raises CheckpointError where there is none, with what was found."""
    if mapping is not None:
        try:
            return _mapped(base, other, read_mapping(mapping), f"mapped by {mapping.name}")
        except CheckpointError as error:
            if error.path == mapping:
                raise
            raise CheckpointError(f"{mapping}: does not fit: {error}", path=mapping) from error
    missing, more = names_differ(base, other)
    if not missing and not more:
        return in_form_of(base, other) or other
    if missing and more and (view := in_form_of(base, other) or _under_other_prefix(base, other)):
        return view
    if not accept:
        return other  # whoever uses it says what does not fit
    from weightsmith.models.propose_mapping import propose_mapping

    proposal = propose_mapping(base, other)
    if not proposal.sound:
        weak = [match.text for match in proposal.doubtful]
        raise CheckpointError(
            f"{other.reference}: no mapping to {base.reference} was found that can be trusted: "
            + "; ".join(
                f"{len(names)} {what}, such as {names[0]}"
                for names, what in (
                    (proposal.missing, "tensors of the base without a counterpart"),
                    (proposal.left_over, "tensors that fit nothing"),
                    (weak, "unlike the base"),
                )
                if names
            )
            + ". `weightsmith inspect` writes what it found to a file that you can correct and give with --mapping"
        )
    return _mapped(base, other, proposal.scheme(_family(base)), "mapped by its values")


def in_form_of(base: Model, other: Model) -> Model | None:
    """`other` with its experts in the base's form, where that is what its names differ by."""
    ours, theirs = expert_form(base.checkpoint.tensors), expert_form(other.checkpoint.tensors)
    if ours.split and theirs.fused:
        view, note = as_split(other.checkpoint, ours, other.config), "its experts in one tensor, read one by one"
    elif ours.fused and theirs.fused:
        return _turned(base, other)
    elif ours.fused and theirs.split:
        view, note = as_fused(other.checkpoint, base.checkpoint.tensors, base.config), "its experts read as one tensor"
    else:
        return None
    return replace(other, checkpoint=view, notes=(*other.notes, note)) if view else None


def _under_other_prefix(base: Model, other: Model) -> Model | None:
    """`other`, whose class put another prefix in front of the base's names: `encoder.layer.0` is
    `bert.encoder.layer.0`."""
    names = match_names(base.checkpoint.tensors, other.checkpoint.tensors.keys())
    if set(names.values()) != other.checkpoint.tensors.keys():
        return None
    view = RowMappedCheckpoint(other.checkpoint, ordered({name: RowMap((own,)) for name, own in names.items()}))
    return replace(other, checkpoint=view, notes=(*other.notes, "names under another prefix, read as the base's"))


def _turned(base: Model, other: Model) -> Model | None:
    """`other`, whose fused experts have rows and columns the other way round than the base's."""
    names = [n for n in fused_names(base.checkpoint.tensors) if n in other.checkpoint.tensors]
    shapes = [(base.checkpoint.tensors[n].shape, other.checkpoint.tensors[n].shape) for n in names]
    if not any(one != two and one[1:] == two[:0:-1] for one, two in shapes):
        return None
    split = as_split(other.checkpoint, split_form(other.checkpoint.tensors), other.config)
    view = as_fused(split, base.checkpoint.tensors, base.config) if split else None
    note = "its experts' matrices transposed, as the base has them"
    return replace(other, checkpoint=view, notes=(*other.notes, note)) if view else None


def _mapped(base: Model, other: Model, scheme: Scheme, note: str) -> Model:
    """`other`, whose layout nobody described, seen through the mapping `scheme` as a model of the base's
    configuration."""
    layers = find_stacks(base.checkpoint.tensors, base.config).depth
    maps, left_out = map_rows(scheme, other.home, other.checkpoint.tensors, base.config, layers=layers)
    view = RowMappedCheckpoint(other.checkpoint, ordered(maps))
    check_layers(other.home, view.tensors, base.config)
    return replace(
        other,
        checkpoint=view,
        config=base.config,
        left_out=other.left_out | left_out,
        notes=(*other.notes, f"names of no known layout; {note}"),
    )


def _family(base: Model) -> str:
    return str(base.config.get("model_type", "unknown"))


def read_mapping(path: Path) -> Scheme:
    """A mapping file: a naming scheme whose `detect` and `config` are not used. Raises CheckpointError."""
    try:
        data: dict[str, Any] = read_json(path)
        return replace(
            parse_scheme({"family": MAPPING, "layout": path.stem, "detect": {}, "config": {}} | data),
            detect={},
            family=MAPPING,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, re.error) as error:
        raise CheckpointError(
            f"{path}: not a mapping ({error!r}); it is JSON with `tensors`, a list of [name in the base, name in the "
            "model]; `weightsmith inspect --save-mapping` writes one",
            path=path,
        ) from error
