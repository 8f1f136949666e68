"""tokenizer.model, SentencePiece's file, of models that bring no tokenizer.json: its tokens, and the tokenizer.json
that cuts text likewise (sentencepiece_model.proto in google/sentencepiece)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightsmith.errors import CheckpointError
from weightsmith.files.inputs.read_input import read_bytes, read_json

_LARGEST = 64 << 20  # bytes; Gemma's has 4 MB
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # types of pieces, as in GGUF


@dataclass(frozen=True)
class SentencePieces:
    """Text, score and type of each token, in the order of rows; `prefix`: a text gets a space in front; `bpe`: pieces
    are merged by score, the only kind that tokenizer.json can be made from here."""

    tokens: list[str]
    scores: list[float]
    types: list[int]
    prefix: bool
    bpe: bool
    added: dict[str, int]  # of added_tokens.json beside it

    @property
    def ids(self) -> dict[str, int]:
        return {token: row for row, token in enumerate(self.tokens)} | self.added

    def added_entries(self) -> dict[str, dict[str, Any]]:
        """Tokens that are matched as a whole, as tokenizer.json describes them."""
        kinds = zip(self.tokens, self.types, strict=True)
        whole = {token: kind == CONTROL for token, kind in kinds if kind in (CONTROL, USER_DEFINED)}
        every = whole | dict.fromkeys(self.added, False)
        return {token: {"content": token, "special": special, "normalized": False} for token, special in every.items()}


def read_sentencepiece(path: Path) -> SentencePieces:
    """Raises CheckpointError for a file that is none."""
    try:
        from sentencepiece import sentencepiece_model_pb2 as messages
    except ImportError as error:
        raise CheckpointError(
            f"{path}: reading it needs `pip install 'weightsmith[gguf]'`; or put the model's tokenizer.json beside it",
            path=path,
        ) from error
    proto: Any = vars(messages)["ModelProto"]()
    try:
        proto.ParseFromString(read_bytes(path, limit=_LARGEST))
        if not proto.pieces:
            raise ValueError("it has no pieces")
        beside = path.parent / "added_tokens.json"
        added = read_json(beside) if beside.exists() else {}
        added = {str(token): int(row) for token, row in added.items()}
    except Exception as error:  # protobuf's own errors have no common base
        raise CheckpointError(
            f"{path}: cannot be read as SentencePiece's: {error}; download it again", path=path
        ) from error
    return SentencePieces(
        [piece.piece for piece in proto.pieces],
        [piece.score for piece in proto.pieces],
        [piece.type for piece in proto.pieces],
        bool(proto.normalizer_spec.add_dummy_prefix),
        proto.trainer_spec.model_type == proto.trainer_spec.BPE,
        added,
    )


def write_tokenizer_json(model: Path, out: Path) -> None:
    """tokenizer.json for the tokenizer.model `model`. Raises CheckpointError where it is not of the kind that can be
    written so."""
    import tokenizers

    from weightsmith.tokenizer.gguf_tokenizer import sentencepiece_bpe

    pieces = read_sentencepiece(model)
    if not pieces.bpe:
        raise CheckpointError(
            f"{model}: is not of SentencePiece's BPE kind, so no tokenizer.json can be made from it; save it with "
            "transformers' AutoTokenizer first",
            path=model,
        )
    tokenizer = sentencepiece_bpe(pieces.tokens, pieces.scores, pieces.types, prefix=pieces.prefix)
    for token, entry in sorted(pieces.added_entries().items(), key=lambda item: pieces.ids[item[0]]):
        tokenizer.add_tokens([tokenizers.AddedToken(token, special=entry["special"], normalized=False)])
    tokenizer.save(str(out))
