"""The tokenizer of a merged model whose vocabulary is not just one input's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

from weightsmith.errors import PlanError
from weightsmith.tokenizer.alignment import Alignment


def extend_tokenizer(vocabulary: Alignment, folder: Path) -> None:
    """Add to `folder`'s tokenizer.json the tokens that other models have, under the rows they got, and remove those that have
    no row. Raises PlanError where the tokenizer cannot be changed so."""
    if not vocabulary.added and vocabulary.cut_to is None:
        return
    path = folder / "tokenizer.json"
    if not path.exists():
        raise PlanError(f"{vocabulary.home.reference}: has no tokenizer.json, which the vocabulary asked for needs; save it "
                        "with transformers' AutoTokenizer first")  # fmt: skip
    text = path.read_text(encoding="utf-8")
    if vocabulary.cut_to is not None:
        text = _cut(vocabulary, text, vocabulary.cut_to)
    tokenizer = tokenizers.Tokenizer.from_str(text)
    for entry in vocabulary.added:
        known = {
            key: entry[key] for key in ("single_word", "lstrip", "rstrip", "normalized", "special") if key in entry
        }
        tokenizer.add_tokens([tokenizers.AddedToken(entry["content"], **known)])
        if tokenizer.token_to_id(entry["content"]) != entry["id"]:
            raise PlanError(
                f"{vocabulary.home.reference}: its tokenizer gives {entry['content']!r} the row "
                f"{tokenizer.token_to_id(entry['content'])}, not {entry['id']}: its own tokens leave rows free"
            )
    tokenizer.save(str(path))
    for name in (
        "vocab.json",
        "merges.txt",
        "added_tokens.json",
        "tokenizer.model",
    ):  # they tell of the vocabulary before
        (folder / name).unlink(missing_ok=True)


def _cut(vocabulary: Alignment, text: str, rows: int) -> str:
    content: dict[str, Any] = json.loads(text)
    model = content["model"]
    if model.get("type") != "BPE":
        raise PlanError(
            f"{vocabulary.home.reference}: its tokenizer has tokens from row {rows} on that have no embedding; they can be "
            f"removed from BPE tokenizers, and this one is {model.get('type')}"
        )
    kept = {token: row for token, row in model["vocab"].items() if row < rows}
    gone = model["vocab"].keys() - kept.keys()
    model["vocab"] = kept
    pairs = ((merge, merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"])
    model["merges"] = [merge for merge, parts in pairs if not gone.intersection(parts)]
    content["added_tokens"] = [entry for entry in content.get("added_tokens") or [] if entry["id"] < rows]
    return json.dumps(content, ensure_ascii=False)
