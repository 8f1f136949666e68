"""A model reference from a recipe or a command line, opened: folder, GGUF file, or either `+adapter`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightsmith.architecture.gguf_naming import CanonicalGGUF, is_gguf
from weightsmith.checkpoint.gguf_file import GGUFFile
from weightsmith.checkpoint.lora import LoraCheckpoint
from weightsmith.checkpoint.safetensors_folder import SafetensorsFolder
from weightsmith.checkpoint.tensor import Checkpoint
from weightsmith.errors import CheckpointError


@dataclass(frozen=True)
class Model:
    """An opened model: `checkpoint` in canonical names, its `config.json`, and where its tokenizer lies."""

    reference: str
    checkpoint: Checkpoint
    config: dict[str, Any]
    home: Path  # the folder or GGUF file that holds config and tokenizer
    files: tuple[Path, ...]  # every path the weights come from, base first

    @property
    def is_gguf(self) -> bool:
        return self.home.is_file()


def open_model(reference: str, *, beside: Path | None = None) -> Model:
    """Open `folder`, `file.gguf`, or `base+adapter[+adapter]`; relative paths are tried from the working directory,
    then from `beside` (a recipe's folder). Reads headers only. Raises CheckpointError."""
    base, adapters = _split(reference, beside)
    if is_gguf(base):
        canonical = CanonicalGGUF(GGUFFile(base))
        checkpoint: Checkpoint = canonical
        config = canonical.config
    else:
        checkpoint = SafetensorsFolder(base)
        config = _read_config(base)
    for adapter in adapters:
        checkpoint = LoraCheckpoint(checkpoint, adapter)
    return Model(reference, checkpoint, config, base, (base, *adapters))


def _split(reference: str, beside: Path | None) -> tuple[Path, list[Path]]:
    parts = reference.split("+")
    for count in range(len(parts), 0, -1):  # a path may hold a plus of its own: the longest that exists is the base
        base = _find("+".join(parts[:count]), beside)
        if base is not None:
            break
    else:
        raise CheckpointError(
            f"{parts[0]}: no such folder or file (model {reference!r}). A model is a local folder with safetensors, a .gguf "
            "file, or either followed by +ADAPTER; download hub models first"
        )
    if base.is_file() and not is_gguf(base):
        raise CheckpointError(f"{base}: a model is a folder or a .gguf file")
    adapters = []
    for part in parts[count:]:
        adapter = _find(part, beside)
        if adapter is None or not adapter.is_dir():
            raise CheckpointError(f"{part}: no such adapter folder (model {reference!r})")
        adapters.append(adapter)
    return base, adapters


def _find(path: str, beside: Path | None) -> Path | None:
    here = Path(path).expanduser()
    for candidate in (here, beside / here if beside else here):
        if path and candidate.exists():
            return candidate
    return None


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: not there; a model folder needs its config.json") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return config
