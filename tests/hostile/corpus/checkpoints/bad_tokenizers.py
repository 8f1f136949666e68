"""The files beside the weights: tokenizers, templates, settings of generation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.hostile.builders import TOKENIZER_CONFIG, recipe, tokenizer, write_model
from tests.hostile.corpus.values import RAW, WRONG, written
from tests.hostile.fork import EITHER, REFUSED, TAKEN, Case

_MERGE, _UNION = ("merge", "r.yml", "out", "-q"), ("merge", "union.yml", "out", "-q")
_OBJECTS = (
    "tokenizer_config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json",
    "preprocessor_config.json", "chat_template.json",
)  # fmt: skip
_HARMLESS = ("many digits behind the point", "huge exponent")


def _built(name: str, content: bytes | str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        write_model(folder / "good", 0)
        write_model(folder / "bad", 1)
        written_content = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        (folder / "bad" / name).write_bytes(written_content)
        (folder / "r.yml").write_text(recipe("bad", "good"))
        (folder / "union.yml").write_text(recipe("good", "bad") + "tokenizer_source: union\n")

    return build


def cases() -> Iterator[Case]:
    for command in (_MERGE, _UNION):
        yield Case(f"a good one, {command[1]}", _built("tokenizer.json", json.dumps(tokenizer())), command, "", TAKEN)
    for name in _OBJECTS:
        for what, raw in RAW.items():
            yield Case(f"{name}: {what}", _built(name, raw), _MERGE, name, EITHER if what in _HARMLESS else REFUSED)
    for what, raw in RAW.items():
        yield Case(f"tokenizer.json: {what}", _built("tokenizer.json", raw), _MERGE, "tokenizer.json")
        yield Case(f"tokenizer.json of another: {what}", _built("tokenizer.json", raw), _UNION, "tokenizer.json")
    for key in ("model", "added_tokens"):
        for what in WRONG:
            codes = REFUSED if key == "model" else EITHER
            content = written(tokenizer(), key, what)
            yield Case(f"tokenizer.json {key}: {what}", _built("tokenizer.json", content), _MERGE, "bad", codes)
            yield Case(f"union, {key}: {what}", _built("tokenizer.json", content), _UNION, "bad", EITHER)
    for what in WRONG:
        if what != "deep":
            content = tokenizer()
            content["model"] = content["model"] | {"vocab": WRONG[what]}
            yield Case(f"vocab: {what}", _built("tokenizer.json", json.dumps(content)), _UNION, "bad", EITHER)
            content = tokenizer()
            content["model"]["vocab"] = content["model"]["vocab"] | {"a": WRONG[what]}
            yield Case(f"an id: {what}", _built("tokenizer.json", json.dumps(content)), _UNION, "bad", EITHER)
    for key in (
        "eos_token",
        "chat_template",
        "tokenizer_class",
        "model_max_length",
        "added_tokens_decoder",
        "auto_map",
    ):
        for what in WRONG:
            content = written(TOKENIZER_CONFIG, key, what)
            yield Case(f"{key}: {what}", _built("tokenizer_config.json", content), _MERGE, "bad", EITHER)
    yield from _added()


def _added() -> Iterator[Case]:
    for what, entry in {
        "id of 10^9": {"id": 10**9, "content": "x"},
        "id of -1": {"id": -1, "content": "x"},
        "id twice": {"id": 1, "content": "x"},
        "empty": {"id": 40, "content": ""},
        "long": {"id": 40, "content": "x" * 1_000_000},
    }.items():
        content: dict[str, Any] = tokenizer()
        flags = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        content["added_tokens"] = [*content["added_tokens"], entry | flags]
        yield Case(f"added: {what}", _built("tokenizer.json", json.dumps(content)), _UNION, "bad", EITHER)
