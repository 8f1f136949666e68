"""tokenizer.model, which llama.cpp's converter takes the SentencePiece tokenizers of Llama 2, Mistral, Gemma and Phi-3 from, made
again from tokenizer.json: fine-tunes are often published without it, and a vocabulary that was extended or cut has none.

SentencePiece joins, of all neighbours whose text together is a piece, the pair with the best score; tokenizer.json lists pairs in
that order. So the score of a piece is the place of the first pair that makes it, counted down (sentencepiece_model.proto and
bpe_model.cc in google/sentencepiece).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def restore_sentencepiece(folder: Path) -> bool:
    """Write tokenizer.model from tokenizer.json where the latter is of SentencePiece's kind (BPE that falls back to bytes) and the
    former is missing; whether it was written."""
    target, source = folder / "tokenizer.model", folder / "tokenizer.json"
    if target.exists() or not source.exists():
        return False
    content: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    if content["model"].get("type") != "BPE" or not content["model"].get("byte_fallback"):
        return False
    target.write_bytes(sentencepiece_model(content, _named(folder)))
    return True


def sentencepiece_model(content: dict[str, Any], named: dict[str, str]) -> bytes:
    """A ModelProto for a parsed tokenizer.json; `named` has the texts of `bos_token`, `eos_token`, ... as tokenizer_config.json
    gives them."""
    from sentencepiece import sentencepiece_model_pb2 as messages

    model = content["model"]
    added = {entry["id"]: entry for entry in content.get("added_tokens") or []}
    texts = {row: text for text, row in model["vocab"].items()} | {
        row: entry["content"] for row, entry in added.items()
    }
    ranks = _ranks(model["merges"])
    proto: Any = vars(messages)["ModelProto"]()
    kinds = proto.SentencePiece
    unknown = named.get("unk_token") or model.get("unk_token") or "<unk>"
    for row in range(max(texts) + 1):
        text = texts.get(row, f"<unused_row_{row}>")
        piece = proto.pieces.add(piece=text, score=-float(ranks.get(text, len(ranks) + row)))
        if text == unknown:
            piece.type = kinds.UNKNOWN
        elif row not in texts:
            piece.type = kinds.UNUSED
        elif row in added:
            piece.type = kinds.CONTROL if added[row].get("special") else kinds.USER_DEFINED
        elif len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            piece.type = kinds.BYTE
    told = proto.trainer_spec
    told.model_type, told.byte_fallback, told.vocab_size = told.BPE, True, len(proto.pieces)
    rows = {text: row for row, text in texts.items()}
    told.unk_piece, told.unk_id = unknown, rows.get(unknown, 0)
    told.bos_id, told.eos_id, told.pad_id = (
        rows.get(named.get(f"{name}_token", ""), -1) for name in ("bos", "eos", "pad")
    )
    rules = proto.normalizer_spec
    rules.name, rules.add_dummy_prefix, rules.remove_extra_whitespaces = "identity", _begins_with_space(content), False
    return proto.SerializeToString()


def _ranks(merges: list[Any]) -> dict[str, int]:
    ranks: dict[str, int] = {}
    for place, merge in enumerate(merges):
        ranks.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), place)
    return ranks


def _begins_with_space(content: dict[str, Any]) -> bool:
    """Whether a text gets a space in front: by a normalizer, or by the pre-tokenizer of newer files."""
    for part in ("normalizer", "pre_tokenizer"):
        step = content.get(part) or {}
        for one in [step, *step.get("normalizers", []), *step.get("pretokenizers", [])]:
            if one.get("type") == "Prepend" or (
                one.get("type") == "Metaspace" and one.get("prepend_scheme") != "never"
            ):
                return True
    return False


def _named(folder: Path) -> dict[str, str]:
    path = folder / "tokenizer_config.json"
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    texts = {
        key: value.get("content") if isinstance(value, dict) else value
        for key, value in told.items()
        if key.endswith("_token")
    }
    return {key: text for key, text in texts.items() if isinstance(text, str)}
