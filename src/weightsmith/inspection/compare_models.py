"""How a model compares with its base: what matches, what is converted, what does not fit and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weightsmith.inspection.compare_vocabularies import VocabularyDifference, compare_vocabularies
from weightsmith.inspection.model_facts import asked_code, main_dtype
from weightsmith.models.configs.compare_settings import compare_settings
from weightsmith.models.fit_to_base import names_differ
from weightsmith.models.model import Model
from weightsmith.models.parts.embeddings import EMBEDDINGS, OUTPUTS, embedding_rows, is_tied, output_name
from weightsmith.tokenizer.vocabulary import read_vocabulary

if TYPE_CHECKING:
    from weightsmith.models.propose_mapping import Proposal


@dataclass(frozen=True)
class Finding:
    """`severity`: `same`, `converted` (done by merge itself), `note`, or `blocks` (a change is needed first); `model`
    is None where it is about all; `details` names tensors, tokens or lines of a mapping."""

    severity: str
    model: str | None
    text: str
    details: tuple[str, ...] = ()


def about(model: Model) -> Iterator[Finding]:
    """Findings about one model alone."""
    if model.conversion:
        details = tuple(f"{name} ({reason})" for name, reason in model.left_out.items())
        yield Finding("converted", model.reference, model.conversion, details)
    if code := asked_code(model):
        yield Finding("note", model.reference, "its config.json names code (auto_map), which is never run", code)


def compare(base: Model, other: Model, proposal: Proposal | None, tokenizer_source: str | None) -> Iterator[Finding]:
    """`proposal`: how `other`'s names would be mapped where they differ; `tokenizer_source`: what the recipe says."""
    missing, more = names_differ(base, other)
    if proposal and proposal.sound:
        text = (
            f"its names match no known layout; by shapes and values, all {len(other.checkpoint.tensors)} tensors are "
            f"those of {base.reference}: merge with --accept-mapping, or save and edit it (--save-mapping, then "
            "--mapping)"
        )
        yield Finding("blocks", other.reference, text, tuple(match.text for match in proposal.matches))
        return
    yield from _model_types(base, other, bool(missing or more))
    yield from _missing(base, other, missing, more, proposal)
    yield from _tied(base, other)
    yield from _shapes(base, other)
    yield from _settings(base, other)
    yield from _vocabularies(base, other, tokenizer_source)
    dtypes = main_dtype(base.checkpoint.tensors), main_dtype(other.checkpoint.tensors)
    if dtypes[0] != dtypes[1]:
        text = f"{dtypes[1]} weights beside the base's {dtypes[0]}: merged in float32, rounded to the recipe's `dtype`"
        yield Finding("note", other.reference, text)


def _model_types(base: Model, other: Model, names_apart: bool) -> Iterator[Finding]:
    model_types = [str(model.config.get("model_type")) for model in (base, other)]
    if model_types[0] == model_types[1]:
        return
    if names_apart:
        text = (
            f"it is a {model_types[1]} model, {base.reference} a {model_types[0]} model, and their tensors differ; "
            "choose models of one family"
        )
        yield Finding("blocks", other.reference, text)
    else:
        text = (
            f"its config.json says {model_types[1]}, the base's {model_types[0]}; the names are the same, so the "
            "result is a "
            f"{model_types[0]} model"
        )
        yield Finding("note", other.reference, text)


def _missing(
    base: Model, other: Model, missing: Sequence[str], more: Sequence[str], proposal: Proposal | None
) -> Iterator[Finding]:
    for names, where, remedy in (
        (
            missing,
            f"only in {base.reference}",
            "check that it is a complete checkpoint of the same depth; download it again, or choose another",
        ),
        (
            more,
            f"only in {other.reference}",
            "it was extended, or made from another base; choose the base it was made from",
        ),
    ):
        if names:
            count = "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"
            yield Finding("blocks", other.reference, f"{count} {where}: {remedy}", tuple(names))
    if missing and more and proposal:
        weak = [match.text for match in proposal.doubtful]
        lines = (*(match.text for match in proposal.matches), *(f"no counterpart: {name}" for name in proposal.missing))
        text = (
            f"a mapping by shapes and values leaves {len(proposal.missing)} of the base's tensors and "
            f"{len(proposal.left_over)} of its own without a counterpart, and {len(weak)} unlike the base; correct it "
            "in a file (--save-mapping), then merge with --mapping"
        )
        yield Finding(
            "note", other.reference, text, (*lines, *(f"fits nothing: {name}" for name in proposal.left_over))
        )


def _tied(base: Model, other: Model) -> Iterator[Finding]:
    has = [output_name(model.checkpoint.tensors) is not None for model in (base, other)]
    if has[0] == has[1]:
        return
    without = other if has[0] else base
    if not is_tied(without.config):
        return  # a missing tensor, which is said as such
    what = (
        "its embedding is used as the output matrix, which the base stores separately"
        if has[0]
        else "it has an output matrix of its own, which the base ties to the embedding: the result has its own, too"
    )
    yield Finding("note", other.reference, what)


def _shapes(base: Model, other: Model) -> Iterator[Finding]:
    base_tensors, other_tensors = base.checkpoint.tensors, other.checkpoint.tensors
    differing = {
        name: (base_tensors[name].shape, other_tensors[name].shape)
        for name in base_tensors.keys() & other_tensors.keys()
        if base_tensors[name].shape != other_tensors[name].shape
        and not name.endswith((*EMBEDDINGS, *OUTPUTS, "lm_head.bias"))
    }
    if differing:
        name = min(differing)
        a, b = (list(shape) for shape in differing[name])
        text = (
            f"{len(differing)} tensors have different shapes, such as {name}: {a} and {b}; it is not a fine-tune "
            "of this "
            "base"
        )
        yield Finding("blocks", other.reference, text, tuple(sorted(differing)))


def _settings(base: Model, other: Model) -> Iterator[Finding]:
    for difference in compare_settings(base.config, other.config):
        text = f"its config.json says {difference}"
        if difference.breaks:
            text += f": another function than {base.reference}, with the same shapes; choose a fine-tune of one model"
            yield Finding("blocks", other.reference, text)
        else:
            yield Finding("note", other.reference, f"{text}; a merge has the base's")


def _vocabularies(base: Model, other: Model, tokenizer_source: str | None) -> Iterator[Finding]:
    base_vocabulary, other_vocabulary = read_vocabulary(base), read_vocabulary(other)
    rows = [embedding_rows(model.checkpoint.tensors) for model in (base, other)]
    if base_vocabulary is None or other_vocabulary is None:
        if None not in rows and rows[0] != rows[1]:
            lacking = base if base_vocabulary is None else other
            text = (
                f"the vocabularies differ: {rows[0]} rows in {base.reference}, {rows[1]} in {other.reference}; which "
                f"tokens differ is unknown: {lacking.reference} has no tokenizer.json. Put it there and choose a "
                "tokenizer_source"
            )
            yield Finding("blocks" if tokenizer_source is None else "note", other.reference, text)
        return
    difference = compare_vocabularies(base_vocabulary, other_vocabulary)
    if difference.same_tokens and difference.rows[0] == difference.rows[1]:
        return
    if tokenizer_source:
        severity, remedy = "converted", f"unified by the recipe's tokenizer_source: {tokenizer_source}"
    elif difference.rows[0] != difference.rows[1]:
        severity, remedy = "blocks", "choose the result's vocabulary: " + _choices(base, other, difference)
    else:
        severity, remedy = (
            "note",
            "rows are merged by number; to merge by token, set " + _choices(base, other, difference),
        )
    yield Finding(
        severity,
        other.reference,
        f"the vocabularies differ: {_describe(base, other, difference)}; {remedy}",
        _tokens(difference),
    )


def _describe(base: Model, other: Model, difference: VocabularyDifference) -> str:
    parts = []
    if difference.rows[0] != difference.rows[1]:
        parts.append(f"{difference.rows[0]} rows in {base.reference}, {difference.rows[1]} in {other.reference}")
    for model, padding, free in zip((base, other), difference.padding, difference.free, strict=True):
        if padding:
            parts.append(f"{padding} rows of {model.reference} have no token ({free})")
    for count, what in (
        (len(difference.only_base), "tokens are only in the base"),
        (len(difference.only_other), "tokens are only in it"),
        (len(difference.moved), "tokens have another row"),
    ):
        if count:
            parts.append(f"{count} {what}")
    return ", ".join(parts)


def _choices(base: Model, other: Model, difference: VocabularyDifference) -> str:
    used = [rows - padding for rows, padding in zip(difference.rows, difference.padding, strict=True)]
    return (
        f"tokenizer_source: union (all {difference.union} tokens; a token that a model lacks gets the base's embedding "
        f"or the mean of those that have it), base (the {used[0]} of {base.reference}), or {other.reference} (its "
        f"{used[1]})"
    )


def _tokens(difference: VocabularyDifference) -> tuple[str, ...]:
    return (
        *(f"row {row} only in the base: {token!r}" for token, row in difference.only_base),
        *(f"row {row} only in it: {token!r}" for token, row in difference.only_other),
        *(f"row {a} in the base, {b} in it: {token!r}" for token, a, b in difference.moved),
    )
