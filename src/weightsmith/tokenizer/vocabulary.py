"""Which token has which row: read from tokenizer files or GGUF metadata as data, no tokenizer is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.errors import CheckpointError
from weightsmith.files.inputs.read_input import MAX_TOKENIZER_BYTES, read_json
from weightsmith.models.model import Model
from weightsmith.models.parts.embeddings import embedding_rows
from weightsmith.tokenizer.sentencepiece.sentencepiece_file import read_sentencepiece

_CONTROL, _USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type


@dataclass(frozen=True)
class Vocabulary:
    """`ids`: token -> row; `added`: tokens added to the tokenizer after its training, as tokenizer.json describes them;
    `rows`: how many rows the embedding has, of which some may have no token."""

    ids: dict[str, int]
    added: dict[str, dict[str, Any]]
    rows: int

    @property
    def used(self) -> dict[str, int]:
        """The tokens that have a row."""
        return {token: number for token, number in self.ids.items() if number < self.rows}


def read_vocabulary(model: Model) -> Vocabulary | None:
    """The vocabulary of a model; None where it brings no tokenizer. Raises CheckpointError for one that cannot be
    read."""
    rows = embedding_rows(model.checkpoint.tensors) or 0
    if model.is_gguf:
        ids, added = _from_gguf(model.home)
    elif (model.home / "tokenizer.json").exists():
        ids, added = _from_json(model.home / "tokenizer.json")
    elif (model.home / "tokenizer.model").exists():
        pieces = read_sentencepiece(model.home / "tokenizer.model")
        ids, added = pieces.ids, pieces.added_entries()
    elif (model.home / "vocab.json").exists():
        ids, added = _from_parts(model.home)
    else:
        return None
    return Vocabulary(ids, added, rows)


def _from_gguf(path: Path) -> tuple[dict[str, int], dict[str, dict[str, Any]]]:
    metadata = GGUFFile(path).metadata
    tokens = metadata.get("tokenizer.ggml.tokens") or []
    types = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    added = {
        token: {"content": token, "special": token_type == _CONTROL, "normalized": False}
        for token, token_type in zip(tokens, types, strict=False)
        if token_type in (_CONTROL, _USER_DEFINED)
    }
    return {token: number for number, token in enumerate(tokens)}, added


def _from_json(path: Path) -> tuple[dict[str, int], dict[str, dict[str, Any]]]:
    content = _read(path)
    try:
        vocabulary = content["model"]["vocab"]
        if isinstance(vocabulary, list):  # Unigram: [token, score] in the order of their rows
            vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary)}
        added = {entry["content"]: entry for entry in content.get("added_tokens") or []}
        ids = {str(token): int(number) for token, number in vocabulary.items()}
        return ids | {token: int(entry["id"]) for token, entry in added.items()}, added
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: not a tokenizer of the tokenizers library ({error!r}); download it again", path=path
        ) from error


def _from_parts(folder: Path) -> tuple[dict[str, int], dict[str, dict[str, Any]]]:
    ids, added_rows = _read(folder / "vocab.json"), {}
    if (folder / "added_tokens.json").exists():
        added_rows = _read(folder / "added_tokens.json")
    try:
        ids = {str(token): int(number) for token, number in (ids | added_rows).items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / 'vocab.json'}: not a list of tokens and numbers; download it again", path=folder / "vocab.json"
        ) from error
    return ids, {token: {"content": token, "special": False, "normalized": True} for token in added_rows}


def _read(path: Path) -> Any:
    return read_json(path, limit=MAX_TOKENIZER_BYTES)
