"""A model reference from a recipe or a command line, opened under the names that transformers has today."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from weightsmith.architecture.adapter import with_adapter
from weightsmith.architecture.canonical_config import NoTransformersClass, translate_config, translate_config_back
from weightsmith.architecture.config_shapes import check_shapes
from weightsmith.architecture.find_model import find_model, is_gguf
from weightsmith.architecture.layer_numbers import check_layers
from weightsmith.architecture.multimodal import text_config, text_names, without_wrapper
from weightsmith.architecture.row_map import RowMap, RowMappedCheckpoint
from weightsmith.architecture.scheme import Scheme, detect_scheme, known_schemes, map_rows, map_rows_back, scheme_named
from weightsmith.architecture.wrapped_names import is_buffer, tied_aliases, unwrap, without_prefix
from weightsmith.checkpoint.gguf_file import GGUFFile
from weightsmith.checkpoint.hub import HEADERS_ONLY
from weightsmith.checkpoint.joined import JoinedCheckpoint
from weightsmith.checkpoint.tensor import Checkpoint, TensorInfo, natural_key
from weightsmith.checkpoint.weights_folder import WeightsFolder, find_weights, open_weights
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
    said: tuple[str, ...] = ()  # more that was done, or could not be
    kept_because: str | None = None  # why a known foreign layout is left as it is
    lora_ranks: tuple[int, ...] = ()
    config_file: str = "config.json"  # the name that the layout gives its configuration
    headers_only: bool = False  # a hub model of which nothing but headers was fetched

    @property
    def is_gguf(self) -> bool:
        return self.home.is_file()

    @property
    def naming(self) -> str:
        """The layout's name, `transformers` where it is today's."""
        return self.scheme.name if self.scheme else "transformers"

    @property
    def conversion(self) -> str | None:
        """What is done to its names and rows on the fly, in a few words."""
        said = []
        if self.scheme:
            said.append(f"{self.scheme.name} naming, read as {self.config['architectures'][0]}'s")
        if self.renamed:
            said.append("wrapped or unprefixed names, read as plain ones")
        if self.kept_because:
            said.append(f"names kept as they are: {self.kept_because}")
        said += self.said
        if self.ignored:
            said.append(f"{len(self.ignored)} {'buffer' if len(self.ignored) == 1 else 'buffers'} left out")
        return "; ".join(said) or None


def open_model(reference: str, *, beside: Path | None = None, headers_only: bool = False) -> Model:
    """Open `folder`, `file.gguf`, `owner/name@revision` of the hub, or any of these `+adapter[+adapter]`; relative paths are
    tried from the working directory, then from `beside` (a recipe's folder). Reads headers only; a hub model is downloaded
    first, unless `headers_only`, which fetches nothing else and leaves its weights unreadable. Raises CheckpointError."""
    base, adapters = find_model(reference, beside, headers_only=headers_only)
    model = _open_gguf(base) if is_gguf(base) else _open_folder(base)
    checkpoint, ranks, said = model.checkpoint, [], list(model.said)
    for adapter in adapters:
        checkpoint, rank, layout = with_adapter(checkpoint, model.config, base, adapter)
        ranks.append(rank)
        if layout:
            said.append(f"an adapter in {layout} naming, added to the rows it was trained on")
    remote = headers_only and (base / HEADERS_ONLY).exists()
    return replace(
        model, reference=reference, checkpoint=checkpoint, files=(base, *adapters), said=tuple(said), lora_ranks=tuple(ranks),
        headers_only=remote,
    )  # fmt: skip


def in_layout(model: Model, layout: str) -> Model:
    """The same model under the names, rows and configuration keys of an older layout; `bare`: without the prefix of its class,
    as the first GPT-2, BLOOM and OPT were published. Raises CheckpointError."""
    if layout == "bare":
        plain = without_prefix(model.checkpoint.tensors)
        maps = {short: RowMap((name,)) for short, name in plain.items()}
        return replace(model, checkpoint=RowMappedCheckpoint(model.checkpoint, _ordered(maps)))
    scheme = scheme_named(layout, model.config)
    try:
        config = translate_config_back(scheme, model.config)
    except CheckpointError as error:
        raise CheckpointError(f"{model.reference}: {error}") from error
    maps = map_rows_back(scheme, model.home, model.checkpoint.tensors, model.config)
    view = RowMappedCheckpoint(model.checkpoint, _ordered(maps))
    return replace(model, checkpoint=view, config=config, config_file=scheme.config.get("file", "config.json"))


def mapped_by(model: Model, scheme: Scheme, config: dict[str, Any], said: str, layers: int) -> Model:
    """`model`, whose layout nobody described, seen through the mapping `scheme` as a model of `layers` layers with the
    configuration `config`. Raises CheckpointError."""
    maps, ignored = map_rows(scheme, model.home, model.checkpoint.tensors, config, layers=layers)
    view = RowMappedCheckpoint(model.checkpoint, _ordered(maps))
    check_layers(model.home, view.tensors, config)
    return replace(
        model, checkpoint=view, config=config, ignored=(*model.ignored, *ignored), said=(*model.said, said)
    )  # fmt: skip


def text_part(model: Model) -> Model:
    """The language model of a multimodal one, under the names it has alone. Raises CheckpointError where it has none."""
    names = text_names(model.checkpoint.tensors)
    config = text_config(model.home, model.config)
    left_out = len(model.checkpoint.tensors) - len(names)
    view = RowMappedCheckpoint(model.checkpoint, _ordered({short: RowMap((name,)) for short, name in names.items()}))
    return replace(
        model, checkpoint=view, config=config,
        said=(*model.said, f"its language model alone; {left_out} tensors of other parts left out"),
    )  # fmt: skip


def _open_folder(folder: Path) -> Model:
    told, config_file = _read_config(folder)
    files, aliases = _weights(folder, told)
    try:
        plain = unwrap(files.tensors)
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    short_of = {name: short for short, name in plain.items()}
    tied = tied_aliases({short_of[a]: short_of[b] for a, b in aliases.items()}, told)
    infos = {short: files.tensors[name] for short, name in plain.items() if short not in tied}
    scheme, config, said, kept_because = detect_scheme(infos, config=told), told, [], None
    if scheme is not None:
        try:
            config = translate_config(scheme, folder / config_file, told, infos)
        except NoTransformersClass as reason:  # still mergeable with models of the same names
            scheme, kept_because = None, str(reason)
    if scheme is None:
        infos, plain, config, unwrapped = without_wrapper(infos, plain, config, folder)
        said += unwrapped
        ignored = tuple(name for name, info in infos.items() if is_buffer(name, info))
        maps = {short: RowMap((plain[short],)) for short in infos if short not in ignored}
    else:
        maps, ignored = map_rows(scheme, folder, infos, config)
        maps = {to: replace(one, sources=tuple(plain[s] for s in one.sources)) for to, one in maps.items()}
    check_layers(folder, maps, config)
    view = RowMappedCheckpoint(files, _ordered(maps))
    if not kept_because:
        check_shapes(folder / config_file, view.tensors, config)
    untouched = scheme is None and all(row_map.sources == (name,) for name, row_map in maps.items())
    renamed = not said and any(short != name for short, name in plain.items())
    return Model(
        str(folder), files if untouched and not ignored and not tied else view, config, folder, (folder,), scheme,
        (*ignored, *tied), renamed, tuple(said), kept_because,
    )  # fmt: skip


def _weights(folder: Path, config: dict[str, Any]) -> tuple[Checkpoint, dict[str, str]]:
    """(the tensors under the names in the files, tied names of PyTorch files)."""
    files, _ = find_weights(folder)
    if len(files) == 1 or not all(path.name.startswith("consolidated.") for path in files):
        whole = WeightsFolder(folder)
        return whole, whole.aliases
    parts = [open_weights(path) for path in files]
    scheme = detect_scheme(parts[0].tensors, config=config)
    if scheme is None or not scheme.columns:
        raise CheckpointError(
            f"{folder}: {len(files)} consolidated files in a layout that is not known; join them into one file first"
        )
    axes = {name: _split_axis(scheme, name, info, config) for name, info in parts[0].tensors.items()}
    return JoinedCheckpoint(parts, files, axes), {}


def _split_axis(scheme: Scheme, name: str, info: TensorInfo, config: dict[str, Any]) -> int | None:
    """How model-parallel training split a tensor. Llama 3 splits the embedding by rows, the ones before it by columns."""
    if len(info.shape) < 2:
        return None
    by_columns = any(pattern.fullmatch(name) for pattern in scheme.columns)
    return 1 if by_columns and not ("embedd" in name and info.shape[1] == config.get("dim")) else 0


def _open_gguf(path: Path) -> Model:
    file = GGUFFile(path)
    scheme = detect_scheme(file.tensors, metadata=file.metadata)
    if scheme is None:
        known = [s.detect["metadata"]["general.architecture"] for s in known_schemes() if "metadata" in s.detect]
        raise CheckpointError(
            f"{path}: GGUF architecture {file.metadata.get('general.architecture')!r} cannot be read; "
            f"known: {', '.join(known)}. Use the model's safetensors folder instead"
        )
    config = translate_config(scheme, path, file.metadata, file.tensors)
    maps, ignored = map_rows(scheme, path, file.tensors, config)
    if "model.embed_tokens.weight" not in maps:
        raise CheckpointError(f"{path}: the embedding matrix is not in it; download it again")
    check_layers(path, maps, config)
    checkpoint = RowMappedCheckpoint(file, _ordered(maps))
    config["tie_word_embeddings"] = "lm_head.weight" not in maps
    config["vocab_size"] = checkpoint.tensors["model.embed_tokens.weight"].shape[0]
    check_shapes(path, checkpoint.tensors, config)
    return Model(str(path), checkpoint, config, path, (path,), scheme, ignored)


def _ordered(maps: dict[str, RowMap]) -> dict[str, RowMap]:
    return dict(sorted(maps.items(), key=lambda item: natural_key(item[0])))


def _read_config(folder: Path) -> tuple[dict[str, Any], str]:
    """(config.json, or params.json as Meta and Mistral have it; its name)."""
    name = (
        "params.json" if (folder / "params.json").exists() and not (folder / "config.json").exists() else "config.json"
    )
    path = folder / name
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: not there; a model folder needs its config.json") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}; download it again") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: not a JSON object; download it again")
    return config, name
