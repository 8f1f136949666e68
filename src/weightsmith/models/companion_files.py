"""The files beside a model's weights, read before any work: what a later stage needs is known to be sound."""

from __future__ import annotations

from pathlib import Path

from weightsmith.errors import CheckpointError
from weightsmith.files.inputs.read_input import MAX_BYTES, MAX_TOKENIZER_BYTES, read_json, read_text

_OBJECTS = (
    "added_tokens.json",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
)
_MOST_GROWTH = 64.0
_TEXTS = ("chat_template.jinja",)


def config_of(path: Path) -> str:
    """What the file or folder at `path` says its sizes in."""
    return "its metadata" if path.suffix == ".gguf" else "config.json"


def check_companions(folder: Path) -> None:
    """Raises CheckpointError for a file beside the weights that is not what its name says."""
    for name in _OBJECTS:
        if (folder / name).is_symlink() or (folder / name).exists():
            read_json(folder / name)
    for name in _TEXTS:
        if (folder / name).exists():
            read_text(folder / name, limit=MAX_BYTES)


def check_tokenizer(folder: Path) -> None:
    """Raises CheckpointError for a tokenizer.json that is none, or whose rules let a text grow without bounds."""
    path = folder / "tokenizer.json"
    if not path.exists():
        return
    content = read_json(path, limit=MAX_TOKENIZER_BYTES)
    model, added = content.get("model"), content.get("added_tokens", [])
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list):
        raise CheckpointError(f"{path}: has no vocabulary (`model.vocab`); download it again", path=path)
    entries = added if isinstance(added, list) else [None] if added else []
    if not all(isinstance(e, dict) and isinstance(e.get("content"), str) and type(e.get("id")) is int for e in entries):
        raise CheckpointError(f"{path}: `added_tokens` is no list of tokens and ids; download it again", path=path)
    for key in ("normalizer", "decoder"):
        if (growth := _growth(content.get(key))) > _MOST_GROWTH:
            raise CheckpointError(
                f"{path}: its {key} makes a text up to {growth:.3g} times as long; at most {_MOST_GROWTH:g} times is "
                "taken, and no usable tokenizer needs that",
                path=path,
            )


def _growth(rule: object) -> float:
    """How many times as long a text can get by a rule of `tokenizers`: replacements one after the other multiply."""
    if not isinstance(rule, dict):
        return 1.0
    growth = 1.0
    for key in ("normalizers", "decoders"):
        steps = rule.get(key)
        for step in steps if isinstance(steps, list) else []:
            growth *= _growth(step)
    pattern = rule.get("pattern")
    replaced = pattern.get("String") if isinstance(pattern, dict) else None
    for key in ("content", "prepend"):
        if isinstance(text := rule.get(key), str):
            growth *= max(1.0, len(text) / max(1, len(replaced) if isinstance(replaced, str) else 1))
    return min(growth, 1e300)
