"""A model brought to the names of its base, where its own are not those that transformers has today."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from weightsmith.architecture.layer_numbers import count_layers
from weightsmith.architecture.multimodal import text_names
from weightsmith.architecture.open_model import Model, mapped_by, text_part
from weightsmith.architecture.scheme import Scheme, parse_scheme
from weightsmith.architecture.tied import OUTPUTS, is_tied
from weightsmith.errors import CheckpointError


def names_differ(base: Model, other: Model) -> tuple[list[str], list[str]]:
    """(tensors only the base has, tensors only the other has), an output matrix that is tied in one of them aside."""
    mine, theirs = base.checkpoint.tensors.keys(), other.checkpoint.tensors.keys()
    free = OUTPUTS if is_tied(base.config) or is_tied(other.config) else ()
    only = [sorted(n for n in names if not n.endswith(free)) for names in (mine - theirs, theirs - mine)]
    return only[0], only[1]


def fit_text_parts(models: dict[str, Model]) -> dict[str, Model]:
    """Where language models and multimodal ones meet, of the latter the language models alone."""
    wrapped = {reference: bool(text_names(model.checkpoint.tensors)) for reference, model in models.items()}
    if all(wrapped.values()) or not any(wrapped.values()):
        return models
    return {reference: text_part(model) if wrapped[reference] else model for reference, model in models.items()}


def fit_to(base: Model, other: Model, *, mapping: Path | None = None, accept: bool = False) -> Model:
    """`other` under the base's names: as it is where they agree, by the file `mapping`, or, with `accept`, by the mapping that
    the values of the weights propose. Raises CheckpointError where there is none, saying what was found."""
    if mapping is not None:
        return _mapped(base, other, read_mapping(mapping), f"mapped by {mapping.name}")
    missing, more = names_differ(base, other)
    if not missing and not more:
        return other
    if not accept:
        return other  # whoever uses it says what does not fit
    from weightsmith.architecture.propose_mapping import propose_mapping

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


def _mapped(base: Model, other: Model, scheme: Scheme, said: str) -> Model:
    layers = count_layers(base.checkpoint.tensors)
    return mapped_by(other, scheme, base.config, f"names of no known layout, {said}", layers)


def _family(base: Model) -> str:
    return str(base.config.get("model_type", "unknown"))


def read_mapping(path: Path) -> Scheme:
    """A mapping file: a naming scheme whose `detect` and `config` are not used. Raises CheckpointError."""
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return replace(
            parse_scheme({"family": "mapping", "layout": path.stem, "detect": {}, "config": {}} | data), detect={}
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, re.error) as error:
        raise CheckpointError(
            f"{path}: not a mapping ({error!r}); it is JSON with `tensors`, a list of [name in the base, name in the model]; "
            "`weightsmith inspect --save-mapping` writes one"
        ) from error
