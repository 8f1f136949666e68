"""A model reference from a recipe or a command line, opened: folder, GGUF file, or either `+adapter`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from weightsmith.architecture.canonical_config import translate_config, translate_config_back
from weightsmith.architecture.layer_numbers import check_layers
from weightsmith.architecture.row_map import RowMap, RowMappedCheckpoint
from weightsmith.architecture.scheme import Scheme, detect_scheme, known_schemes, map_rows, map_rows_back, scheme_named
from weightsmith.architecture.wrapped_names import is_buffer, unwrap
from weightsmith.checkpoint.gguf_file import GGUFFile
from weightsmith.checkpoint.lora import LoraCheckpoint
from weightsmith.checkpoint.tensor import Checkpoint, natural_key
from weightsmith.checkpoint.weights_folder import WeightsFolder
from weightsmith.errors import CheckpointError


@dataclass(frozen=True)
class Model:
    """An opened model: `checkpoint` in canonical names, its `config.json`, and where its tokenizer lies."""

    reference: str
    checkpoint: Checkpoint
    config: dict[str, Any]
    home: Path  # the folder or GGUF file that holds config and tokenizer
    files: tuple[Path, ...]  # every path the weights come from, base first
    scheme: Scheme | None = None  # the foreign layout it is read from
    ignored: tuple[str, ...] = ()  # tensors of the files that are no weights
    renamed: bool = False  # names were unwrapped, or got or lost the prefix of their class

    @property
    def is_gguf(self) -> bool:
        return self.home.is_file()

    @property
    def conversion(self) -> str | None:
        """What is done to its names and rows on the fly, in a few words."""
        said = []
        if self.scheme:
            said.append(f"{self.scheme.name} naming, read as {self.config['architectures'][0]}'s")
        if self.renamed:
            said.append("wrapped or unprefixed names, read as plain ones")
        if self.ignored:
            said.append(f"{len(self.ignored)} buffers left out")
        return "; ".join(said) or None


def open_model(reference: str, *, beside: Path | None = None) -> Model:
    """Open `folder`, `file.gguf`, or `base+adapter[+adapter]`; relative paths are tried from the working directory,
    then from `beside` (a recipe's folder). Reads headers only. Raises CheckpointError."""
    base, adapters = _split(reference, beside)
    opened = _open_gguf if _is_gguf(base) else _open_folder
    checkpoint, config, scheme, ignored, renamed = opened(base)
    for adapter in adapters:
        checkpoint = LoraCheckpoint(checkpoint, adapter)
    return Model(reference, checkpoint, config, base, (base, *adapters), scheme, ignored, renamed)


def in_layout(model: Model, layout: str) -> Model:
    """The same model under the names, rows and configuration keys of an older layout. Raises CheckpointError."""
    scheme = scheme_named(layout)
    try:
        config = translate_config_back(scheme, model.config)
    except CheckpointError as error:
        raise CheckpointError(f"{model.reference}: {error}") from error
    maps = map_rows_back(scheme, model.home, model.checkpoint.tensors, model.config)
    return replace(model, checkpoint=RowMappedCheckpoint(model.checkpoint, _ordered(maps)), config=config)


_Opened = tuple[Checkpoint, dict[str, Any], Scheme | None, tuple[str, ...], bool]


def _open_folder(folder: Path) -> _Opened:
    files, config = WeightsFolder(folder), _read_config(folder)
    try:
        plain = unwrap(files.tensors)
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    infos = {short: files.tensors[name] for short, name in plain.items()}
    scheme = detect_scheme(infos, config=config)
    if scheme is None:
        ignored = tuple(name for name, info in infos.items() if is_buffer(name, info))
        maps = {short: RowMap((name,)) for short, name in plain.items() if short not in ignored}
    else:
        config = translate_config(scheme, folder / "config.json", config)
        maps, ignored = map_rows(scheme, folder, infos, config)
        maps = {to: RowMap(tuple(plain[s] for s in row_map.sources), row_map.rows) for to, row_map in maps.items()}
    check_layers(folder, maps, config)
    if scheme is None and all(row_map.sources == (name,) for name, row_map in maps.items()) and not ignored:
        return files, config, None, (), False
    renamed = any(short != name for short, name in plain.items())
    return RowMappedCheckpoint(files, _ordered(maps)), config, scheme, ignored, renamed


def _open_gguf(path: Path) -> _Opened:
    file = GGUFFile(path)
    scheme = detect_scheme(file.tensors, metadata=file.metadata)
    if scheme is None:
        known = [s.detect["metadata"]["general.architecture"] for s in known_schemes() if "metadata" in s.detect]
        raise CheckpointError(
            f"{path}: GGUF architecture {file.metadata.get('general.architecture')!r} cannot be read; "
            f"known: {', '.join(known)}. Use the model's safetensors folder instead"
        )
    config = translate_config(scheme, path, file.metadata)
    maps, ignored = map_rows(scheme, path, file.tensors, config)
    if "model.embed_tokens.weight" not in maps:
        raise CheckpointError(f"{path}: the embedding matrix is not in it; download it again")
    check_layers(path, maps, config)
    checkpoint = RowMappedCheckpoint(file, _ordered(maps))
    config["tie_word_embeddings"] = "lm_head.weight" not in maps
    config["vocab_size"] = checkpoint.tensors["model.embed_tokens.weight"].shape[0]
    return checkpoint, config, scheme, ignored, False


def _ordered(maps: dict[str, RowMap]) -> dict[str, RowMap]:
    return dict(sorted(maps.items(), key=lambda item: natural_key(item[0])))


def _is_gguf(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() == ".gguf"


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
    if base.is_file() and not _is_gguf(base):
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
