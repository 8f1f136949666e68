"""`tokenizer_source` and `tokenizer` of a recipe, resolved: all models in one vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from weightsmith.errors import CheckpointError
from weightsmith.models.model import Model
from weightsmith.models.open_model import open_model
from weightsmith.models.parts.embeddings import embedding_rows
from weightsmith.recipe.recipe import Recipe
from weightsmith.recipe.recipe_schema import Tokenizer, TokenRule
from weightsmith.tokenizer.alignment import Alignment, TokenSource, aligned, output_vocabulary
from weightsmith.tokenizer.vocabulary import Vocabulary, read_vocabulary


def align_vocabularies(
    recipe: Recipe, opened: Mapping[str, Model], base: str | None
) -> tuple[dict[str, Model], Alignment | None]:
    """The models with rows for one vocabulary, and that vocabulary; as they are where the recipe asks for none. `base`:
    the recipe's base model. Raises RecipeError or CheckpointError."""
    schema = recipe.schema
    if schema.tokenizer_source is None and schema.tokenizer is None:
        return dict(opened), None
    tokenizer = schema.tokenizer or Tokenizer(source=schema.tokenizer_source or "base")
    key = ["tokenizer", "source"] if schema.tokenizer else ["tokenizer_source"]
    names, models = list(opened), list(opened.values())
    first = names.index(base) if base in names else 0
    own_vocabularies = [read_vocabulary(model) for model in models]
    base_vocabulary = own_vocabularies[first]
    if base_vocabulary is None:
        raise recipe.file.error(
            key,
            f"{names[first]} has no tokenizer.json or tokenizer.model; a vocabulary needs one. Put it there, "
            f"or leave {key[-1]} out",
        )
    # A model without a tokenizer has the base's, as in mergekit.
    vocabularies = [
        home_vocabulary
        or replace(base_vocabulary, rows=embedding_rows(model.checkpoint.tensors) or base_vocabulary.rows)
        for home_vocabulary, model in zip(own_vocabularies, models, strict=True)
    ]
    if tokenizer.source in ("union", "base"):
        others = [v for number, v in enumerate(vocabularies) if number != first] if tokenizer.source == "union" else []
        out = output_vocabulary(models[first], base_vocabulary, extend_by=others, multiple=tokenizer.pad_to_multiple_of)
    else:
        try:
            home = opened.get(tokenizer.source) or open_model(tokenizer.source, beside=recipe.file.path.parent)
        except CheckpointError as error:
            raise recipe.file.error(key, str(error)) from error
        home_vocabulary = (
            vocabularies[names.index(tokenizer.source)] if tokenizer.source in names else read_vocabulary(home)
        )
        if home_vocabulary is None:
            raise recipe.file.error(
                key, f"{tokenizer.source} has no tokenizer.json; choose union, base or a model that has one"
            )
        out = output_vocabulary(home, home_vocabulary, cut=False, multiple=tokenizer.pad_to_multiple_of)
    overrides = {
        token: _rule(recipe, token, rule, out, names, models, vocabularies) for token, rule in tokenizer.tokens.items()
    }
    aligned_models = aligned(models, vocabularies, names.index(base) if base in names else None, out, overrides)
    return dict(zip(names, aligned_models, strict=True)), out


def _rule(
    recipe: Recipe,
    token: str,
    rule: TokenRule,
    out: Alignment,
    names: Sequence[str],
    models: Sequence[Model],
    vocabularies: Sequence[Vocabulary],
) -> TokenSource:
    keys = ["tokenizer", "tokens", token]
    if token not in out.tokens:
        raise recipe.file.error(keys, f"the token {token!r} is in no model's vocabulary")
    source = rule.source if isinstance(rule.source, dict) else {"kind": "model", "model": rule.source}
    if source.get("kind") == "zero":
        return TokenSource((), rule.force)
    model = source.get("model")
    if model not in names:
        raise recipe.file.error([*keys, "source"], f"{model!r} is not one of the recipe's models: {', '.join(names)}")
    number = names.index(model)
    row = source.get("token_id")
    if row is None:
        row = vocabularies[number].used.get(source.get("token", token))
    if not isinstance(row, int) or not 0 <= row < vocabularies[number].rows:
        raise recipe.file.error(
            [*keys, "source"], f"{model} has no embedding for {source.get('token', row or token)!r}"
        )
    return TokenSource(((number, row),), rule.force)
