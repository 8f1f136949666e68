"""One vocabulary for all inputs: whose rows each token's embedding is taken from.

The rules are mergekit's (`mergekit/tokenizer`): a token that a model lacks gets the base model's embedding, or that of
the one model that has it, or the average of those that do, or zeros; `tokens` in a recipe overrides that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from weightsmith.checkpoint.checkpoint import Checkpoint
from weightsmith.checkpoint.views.vocabulary_aligned import Row, VocabularyAligned
from weightsmith.models.model import Model
from weightsmith.models.parts.embeddings import embedding_name, is_over_vocabulary
from weightsmith.tokenizer.vocabulary import Vocabulary


@dataclass(frozen=True)
class Alignment:
    """`tokens`: the output's token -> row; `home`: the model whose tokenizer is extended by `added`; `rows`: with
    padding."""

    tokens: dict[str, int]
    home: Model
    added: tuple[dict[str, Any], ...]
    rows: int
    cut_to: int | None = None  # tokens of `home` from this row on have no embedding and are removed


def output_vocabulary(
    home: Model,
    known: Vocabulary,
    *,
    extend_by: Sequence[Vocabulary] = (),
    cut: bool = True,
    multiple: int | None = None,
) -> Alignment:
    """The vocabulary of the merged model: that of `home`, in its order, then the tokens that it lacks and `extend_by`
    have. `cut`: without the tokens that have no embedding. `multiple`: rows are padded to a multiple of it."""
    tokens = dict(known.used if cut else known.ids)
    plain: dict[str, None] = {}
    special: dict[str, dict[str, Any]] = {}
    for vocabulary in extend_by:
        for token in sorted(vocabulary.used, key=vocabulary.ids.__getitem__):
            if token in vocabulary.added:
                special.setdefault(token, vocabulary.added[token])
            else:
                plain[token] = None
    added: list[dict[str, Any]] = []
    free = max(tokens.values(), default=-1) + 1
    for token in [*(t for t in plain if t not in special), *special]:
        if token in tokens:
            continue
        entry = special.get(token) or {"content": token, "special": False, "normalized": True}
        added.append({**entry, "id": free})
        tokens[token] = free
        free += 1
    rows = free + (-free % multiple if multiple else 0)
    return Alignment(tokens, home, tuple(added), rows, known.rows if cut and len(known.used) < len(known.ids) else None)


@dataclass(frozen=True)
class TokenSource:
    """What a recipe says of one token: `rows` to take instead of the rule's; empty: zeros. `force`: for every model."""

    rows: tuple[Row, ...]
    force: bool = False


def aligned(
    models: Sequence[Model],
    vocabularies: Sequence[Vocabulary],
    base: int | None,
    out: Alignment,
    overrides: Mapping[str, TokenSource],
) -> list[Model]:
    """`models` with their embeddings and output matrices in the rows of `out`. `base`: which of them is the base model;
    `overrides`: token -> what the recipe says of it."""
    import torch

    rows = [torch.full((out.rows,), -1, dtype=torch.int64) for _ in models]
    for model_rows, vocabulary in zip(rows, vocabularies, strict=True):
        used = vocabulary.used
        for token, row in out.tokens.items():
            model_rows[row] = used.get(token, -1)
    fallback: dict[int, tuple[Row, ...]] = {}
    for token, row in out.tokens.items():
        holders = [(k, int(model_rows[row])) for k, model_rows in enumerate(rows) if model_rows[row] >= 0]
        override = overrides.get(token)
        if override:
            if override.force or len(holders) < len(models):
                fallback[row] = override.rows
            if override.force:
                for model_rows in rows:
                    model_rows[row] = -1
        elif len(holders) < len(models):
            of_base = [holder for holder in holders if holder[0] == base]
            fallback[row] = tuple(of_base if len(holders) > 1 and of_base else holders)
    sources = [model.checkpoint for model in models]
    names = _names_in_sources(sources)
    padding = range(max(out.tokens.values(), default=-1) + 1, out.rows)
    return [
        replace(
            model,
            checkpoint=VocabularyAligned(k, sources, names, model_rows, fallback, padding),
            config={**model.config, "vocab_size": out.rows},
        )
        for k, (model, model_rows) in enumerate(zip(models, rows, strict=True))
    ]


def _names_in_sources(sources: Sequence[Checkpoint]) -> list[dict[str, str | None]]:
    """The name, for each source, that each tensor over the vocabulary has in it: its own, or the embedding it is tied
    to."""
    every = dict.fromkeys(name for source in sources for name in source.tensors if is_over_vocabulary(name))
    names: list[dict[str, str | None]] = []
    for source in sources:
        twin = embedding_name(source.tensors)
        names.append({name: name if name in source.tensors else twin for name in every})
    return names
