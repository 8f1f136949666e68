"""Tokenizer and embedding brought to the same number of tokens, which llama.cpp insists on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from weightsmith.errors import ExportError
from weightsmith.files.inputs.read_input import MAX_TOKENIZER_BYTES, read_json, read_text
from weightsmith.tokenizer.cut_tokenizer import cut_tokenizer

_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def fit_vocabulary(folder: Path, rows: int, reference: str) -> list[str]:
    """Change the tokenizer and config.json in `folder` so that they fit an embedding of `rows`; returns what was done,
    in words.

    Tokens without a row cannot have been used by anyone: they are removed. Rows without a token stay; the converter
    names them [PAD...]. Raises ExportError where that cannot be done.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises whatever its readers raise
        raise ExportError(
            f"{reference}: transformers cannot read its tokenizer ({_last_line(error)}); copy the tokenizer files of "
            "the base model into the folder"
        ) from error
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    token_count = max(names, default=-1) + 1
    notes, config = [], read_json(folder / "config.json")
    if config.get("vocab_size", rows) != rows:
        notes.append(f"config.json says {config['vocab_size']} tokens, the embedding has {rows} rows; {rows} is used")
    if token_count > rows:
        removed = [names[number] for number in sorted(names) if number >= rows]
        notes.append(
            f"{len(removed)} tokens have no row in the embedding and were left out: {', '.join(removed[:5])}"
            + (" ..." if len(removed) > 5 else "")
        )
        _cut(folder, rows, set(removed), reference)
    elif token_count < rows:
        notes.append(f"{rows - token_count} rows of the embedding have no token and are kept as padding")
    for key in [key for key in config if key.endswith("_token_id")]:
        value = config[key]
        if isinstance(value, int) and value >= rows:
            del config[key]
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": rows}, indent=2) + "\n", encoding="utf-8")
    return notes


def _cut(folder: Path, rows: int, removed: set[str], reference: str) -> None:
    path = folder / "tokenizer.json"
    if not path.exists():
        raise ExportError(
            f"{reference}: its tokenizer has tokens from row {rows} on that have no embedding, and no tokenizer.json "
            "to remove them from; save it with transformers' AutoTokenizer first"
        )
    path.write_text(cut_tokenizer(read_text(path, limit=MAX_TOKENIZER_BYTES), rows, reference), encoding="utf-8")
    for name in ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        if (folder / name).exists():
            content: dict[str, Any] = read_json(folder / name)
            content.pop("added_tokens_decoder", None)  # tokenizer.json has them
            kept = {key: value for key, value in content.items() if not (key in _NAMED and _text(value) in removed)}
            (folder / name).write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name in ("added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model"):
        (folder / name).unlink(missing_ok=True)


def _text(value: Any) -> Any:
    return value.get("content") if isinstance(value, dict) else value


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1][:200] if lines else type(error).__name__
