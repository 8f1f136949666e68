"""What belongs to a model beside its weights and its configuration, taken from one of the inputs: tokenizer, chat
templates, generation settings, processors of images and sound, and the modules of sentence-transformers."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.files.digests import file_digest
from weightsmith.files.inputs.read_input import read_json
from weightsmith.models.model import Model
from weightsmith.tokenizer.gguf_tokenizer import tokenizer_from_gguf

# Data files only: a model repository may also hold Python, which never leaves it.
_REBUILT_BYTES = 32 << 20  # of a tokenizer that is made from a GGUF file
_BYTES_PER_TENSOR = 1000  # of its lines in checksums and journal
_SETTINGS_BYTES = 1 << 20
COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
)
# Folders of data files: chat templates by name, and what sentence-transformers lays behind the model.
_FOLDERS = re.compile(r"additional_chat_templates|\d+_(Pooling|Normalize|Dense|LayerNorm|Dropout|CNN|LSTM|WordWeights)")
_DATA = (".json", ".jinja", ".safetensors", ".txt")


def companion_digests(home: Path) -> dict[str, str]:
    """Name -> SHA-256 of every file that an output takes from a model's folder beside its weights."""
    if not home.is_dir():
        return {}
    names = [home / name for name in ("config.json", *COPIED)]
    folders = [folder for folder in home.iterdir() if folder.is_dir() and _FOLDERS.fullmatch(folder.name)]
    names += [file for folder in folders for file in folder.iterdir() if file.suffix in _DATA]
    return {str(path.relative_to(home)): file_digest(path) for path in sorted(names) if path.is_file()}


def bytes_beside_weights(home: Path, tensors: int) -> int:
    """What an output of so many `tensors` takes on the disk besides its weights, at most: tokenizer, configuration,
    checksums and journal."""
    if home.is_dir():
        files = [path for path in home.iterdir() if path.name in COPIED]
        files += [file for folder in home.iterdir() if _FOLDERS.fullmatch(folder.name) for file in folder.iterdir()]
        copied = sum(path.stat().st_size for path in files if path.is_file())
    else:
        copied = min(home.stat().st_size, _REBUILT_BYTES)
    return copied + tensors * _BYTES_PER_TENSOR + _SETTINGS_BYTES


def write_tokenizer_files(model: Model, out: Path) -> list[str]:
    """Copy from the model's folder, or rebuild from GGUF metadata. Returns the names written."""
    if model.is_state_dict:
        return []
    if model.is_gguf:
        _rebuild_from_gguf(model, out)
    else:
        for name in COPIED:
            if (model.home / name).is_file():
                shutil.copyfile(model.home / name, out / name)
        for folder in model.home.iterdir():
            if folder.is_dir() and _FOLDERS.fullmatch(folder.name):
                _copy_data(folder, out / folder.name)
    _edit_json(out / "tokenizer_config.json", drop=("auto_map", "is_local", "local_files_only", "name_or_path"))
    for name in ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"):
        _edit_json(out / name, drop=("auto_map",))
    if (out / "generation_config.json").exists():
        _edit_json(out / "generation_config.json", drop=("transformers_version",))
    return [name for name in COPIED if (out / name).exists()]


def _copy_data(folder: Path, out: Path) -> None:
    out.mkdir(exist_ok=True)
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix in _DATA:
            shutil.copyfile(file, out / file.name)


def _rebuild_from_gguf(model: Model, out: Path) -> None:
    file = GGUFFile(model.home)
    tokenizer, config = tokenizer_from_gguf(file)
    tokenizer.save(str(out / "tokenizer.json"))
    config["model_max_length"] = model.config["max_position_embeddings"]
    (out / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    template = file.metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        (out / "chat_template.jinja").write_text(template, encoding="utf-8")
    ids = {key: model.config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in model.config}
    settings = {key: value for key, value in ids.items() if value is not None}
    (out / "generation_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _edit_json(path: Path, *, drop: tuple[str, ...]) -> None:
    if path.exists():
        content = {k: v for k, v in read_json(path).items() if k not in drop}
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
