"""tokenizer.model, which llama.cpp's converter takes the SentencePiece tokenizers of Llama 2, Mistral, Gemma and Phi-3
from, rebuilt from tokenizer.json: fine-tunes are often published without it, and a vocabulary that was extended or
cut has none.

SentencePiece joins, of all neighbours whose text together is a piece, the pair with the best score; tokenizer.json
lists pairs in that order. So the score of a piece is the place of the first pair that makes it, counted down
(sentencepiece_model.proto and bpe_model.cc in google/sentencepiece).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weightsmith.files.inputs.read_input import MAX_TOKENIZER_BYTES, read_json


def restore_sentencepiece(folder: Path) -> bool:
    """Write tokenizer.model from tokenizer.json where the latter is of SentencePiece's kind (BPE that falls back to
    bytes) and the former is missing; whether it was written."""
    target, source = folder / "tokenizer.model", folder / "tokenizer.json"
    if target.exists() or not source.exists():
        return False
    content = read_json(source, limit=MAX_TOKENIZER_BYTES)
    if content["model"].get("type") != "BPE" or not content["model"].get("byte_fallback"):
        return False
    target.write_bytes(sentencepiece_model(content, _special_tokens(folder)))
    return True


def sentencepiece_model(content: dict[str, Any], special_tokens: dict[str, str]) -> bytes:
    """A ModelProto for a parsed tokenizer.json; `special_tokens` has the texts of `bos_token`, `eos_token`, ... as
    tokenizer_config.json gives them."""
    from sentencepiece import sentencepiece_model_pb2 as messages

    model = content["model"]
    added = {entry["id"]: entry for entry in content.get("added_tokens") or []}
    texts = {row: text for text, row in model["vocab"].items()} | {
        row: entry["content"] for row, entry in added.items()
    }
    ranks = _ranks(model["merges"])
    proto: Any = vars(messages)["ModelProto"]()
    piece_types = proto.SentencePiece
    unknown = special_tokens.get("unk_token") or model.get("unk_token") or "<unk>"
    for row in range(max(texts) + 1):
        text = texts.get(row, f"<unused_row_{row}>")
        piece = proto.pieces.add(piece=text, score=-float(ranks.get(text, len(ranks) + row)))
        if text == unknown:
            piece.type = piece_types.UNKNOWN
        elif row not in texts:
            piece.type = piece_types.UNUSED
        elif row in added:
            piece.type = piece_types.CONTROL if added[row].get("special") else piece_types.USER_DEFINED
        elif len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            piece.type = piece_types.BYTE
    trainer = proto.trainer_spec
    trainer.model_type, trainer.byte_fallback, trainer.vocab_size = trainer.BPE, True, len(proto.pieces)
    rows = {text: row for row, text in texts.items()}
    trainer.unk_piece, trainer.unk_id = unknown, rows.get(unknown, 0)
    trainer.bos_id, trainer.eos_id, trainer.pad_id = (
        rows.get(special_tokens.get(f"{name}_token", ""), -1) for name in ("bos", "eos", "pad")
    )
    rules = proto.normalizer_spec
    rules.name, rules.add_dummy_prefix, rules.remove_extra_whitespaces = "identity", _begins_with_space(content), False
    return proto.SerializeToString()


def _ranks(merges: list[Any]) -> dict[str, int]:
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), rank)
    return ranks


def _begins_with_space(content: dict[str, Any]) -> bool:
    """Whether a text gets a space in front: by a normalizer, or by the pre-tokenizer of newer files."""
    for part in ("normalizer", "pre_tokenizer"):
        step = content.get(part) or {}
        for substep in [step, *step.get("normalizers", []), *step.get("pretokenizers", [])]:
            prepends = substep.get("type") == "Metaspace" and substep.get("prepend_scheme") != "never"
            if prepends or substep.get("type") == "Prepend":
                return True
    return False


def _special_tokens(folder: Path) -> dict[str, str]:
    path = folder / "tokenizer_config.json"
    trainer: dict[str, Any] = read_json(path) if path.exists() else {}
    texts = {
        key: value.get("content") if isinstance(value, dict) else value
        for key, value in trainer.items()
        if key.endswith("_token")
    }
    return {key: text for key, text in texts.items() if isinstance(text, str)}
