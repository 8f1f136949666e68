"""The chat template of a model's folder or GGUF file, the templates that have a name, and writing one into a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.files.inputs.read_input import MAX_BYTES, read_json, read_text

_NAMED = Path(__file__).parent / "chat_templates"


def template_names() -> list[str]:
    """Of the templates that have a name."""
    return sorted(path.stem for path in _NAMED.glob("*.jinja"))


def named_template(name: str) -> str:
    """The template of that name, which writes the text that models of the format were trained on."""
    return (_NAMED / f"{name}.jinja").read_text(encoding="utf-8")


def model_template(home: Path) -> str | None:
    """The chat template of the model in the folder or GGUF file `home`, the default one where it has several."""
    if home.is_file() and home.suffix.lower() != ".gguf":
        return None
    if home.is_file():
        return _text(GGUFFile(home).metadata.get("tokenizer.chat_template"))
    if (home / "chat_template.jinja").is_file():
        return read_text(home / "chat_template.jinja", limit=MAX_BYTES)
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (home / name).is_file() and (template := _default(read_json(home / name).get("chat_template"))):
            return template
    return None


def write_template(folder: Path, template: str) -> None:
    """Make it the chat template of the tokenizer in `folder`."""
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    (folder / "chat_template.json").unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    if path.exists():
        content = {key: value for key, value in read_json(path).items() if key != "chat_template"}
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _default(value: Any) -> str | None:
    """Of templates by name, in either of the forms that transformers wrote."""
    if isinstance(value, list):
        value = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
    if isinstance(value, dict):
        value = value.get("default")
    return _text(value)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None
