"""Tokens without an embedding removed from a tokenizer.json."""

from __future__ import annotations

import json
from typing import Any

from weightsmith.errors import PlanError


def cut_tokenizer(text: str, rows: int, reference: str) -> str:
    """The tokenizer.json `text` without tokens from number `rows` on, nor merges that need or make them. Raises
    PlanError where tokens of something else than BPE would have to go."""
    content: dict[str, Any] = json.loads(text)
    content["added_tokens"] = [entry for entry in content.get("added_tokens") or [] if entry["id"] < rows]
    model = content["model"]
    words = model["vocab"]
    if isinstance(words, dict):
        gone = {token for token, row in words.items() if row >= rows}
    else:
        gone = {token for token, _ in words[rows:]}
    if not gone:
        return json.dumps(content, ensure_ascii=False)
    if model.get("type") != "BPE":
        raise PlanError(
            f"{reference}: its tokenizer has tokens from row {rows} on that have no embedding; they can be removed "
            f"from BPE tokenizers, and this one is {model.get('type')}"
        )
    model["vocab"] = {token: row for token, row in words.items() if row < rows}
    pairs = ((merge, merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"])
    model["merges"] = [merge for merge, parts in pairs if not gone.intersection([*parts, "".join(parts)])]
    return json.dumps(content, ensure_ascii=False)
