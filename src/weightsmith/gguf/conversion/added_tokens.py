"""Tokens added to a vocabulary, listed where llama.cpp's converter looks for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from weightsmith.files.inputs.read_input import MAX_TOKENIZER_BYTES, read_json


def list_added_tokens(folder: Path) -> None:
    """Put added tokens into tokenizer_config.json, as `added_tokens_decoder`, where that says nothing of them:
    transformers 5 no longer writes it, and without it a chat format's tokens become ordinary text in the GGUF file."""
    target = folder / "tokenizer_config.json"
    config: dict[str, Any] = read_json(target) if target.exists() else {}
    added = {} if "added_tokens_decoder" in config else _added(folder)
    if added:
        config["added_tokens_decoder"] = {str(row): entry for row, entry in added.items()}
        target.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _added(folder: Path) -> dict[int, dict[str, Any]]:
    source = folder / "tokenizer.json"
    if source.exists():
        entries: list[dict[str, Any]] = read_json(source, limit=MAX_TOKENIZER_BYTES).get("added_tokens") or []
        return {entry.pop("id"): entry for entry in entries}
    from transformers import AutoTokenizer

    added = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False).added_tokens_decoder
    return {
        row: {"content": token.content}
        | {key: getattr(token, key) for key in ("lstrip", "normalized", "rstrip", "single_word", "special")}
        for row, token in added.items()
    }
