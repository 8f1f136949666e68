"""A model reference from a recipe or a command line, opened under the names that transformers has today."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.checkpoint import Checkpoint, TensorInfo
from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.checkpoint.hub import HEADERS_ONLY
from weightsmith.checkpoint.views.adapters.adapter_files import read_peft_config
from weightsmith.checkpoint.views.joined_parts import JoinedCheckpoint
from weightsmith.checkpoint.views.quantized.find_quantized import decode_quantized
from weightsmith.checkpoint.views.row_mapped import RowMap, RowMappedCheckpoint, ordered
from weightsmith.checkpoint.weights_folder import WeightsFolder, find_weights, open_weights
from weightsmith.errors import CheckpointError, shown
from weightsmith.files.inputs.links import check_links
from weightsmith.files.inputs.read_input import read_json
from weightsmith.models.adapter import with_adapter
from weightsmith.models.companion_files import check_companions
from weightsmith.models.configs.check_config import check_shapes, check_values
from weightsmith.models.find_model import find_model, is_gguf, is_state_dict
from weightsmith.models.model import Model
from weightsmith.models.multimodal import without_wrapper
from weightsmith.models.naming.detect import detect_scheme, scheme_named
from weightsmith.models.naming.framework_prefixes import unwrap, without_prefix
from weightsmith.models.naming.left_out import TIED, buffers_among, check_integers, tied_twins
from weightsmith.models.naming.map_tensors import map_rows, map_rows_back
from weightsmith.models.naming.scheme import Scheme, known_schemes
from weightsmith.models.naming.translate_config import NoTransformersClass, translate_config, translate_config_back
from weightsmith.models.parts.own_output import own_output
from weightsmith.models.parts.stacks import check_layers


def open_model(
    reference: Path | str,
    *,
    beside: Path | None = None,
    headers_only: bool = False,
    state_dicts: bool = False,
    bases: MutableMapping[Path, Model] | None = None,
) -> Model:
    """Open `folder`, `file.gguf`, `owner/name@revision` of the hub, or any of these `+adapter[+adapter]`; relative
    paths are tried from the working directory, then from `beside` (a recipe's folder). Reads headers only; a hub model
    is downloaded first, unless `headers_only`, which fetches nothing else and leaves its weights unreadable.
    `state_dicts`: a file of weights alone (.safetensors, .pt) is a model too, with an empty `config`. `bases`: models
    that adapters were opened on before, by their path, to which this one is added. Raises CheckpointError.

    >>> model = ws.open_model("coder")
    >>> model["model.norm.weight"].shape == model.tensors["model.norm.weight"].shape
    True
    """
    reference = str(reference)
    base, adapters = find_model(reference, beside, headers_only=headers_only)
    if is_state_dict(base):
        if not state_dicts or adapters:
            raise CheckpointError(
                f"{base}: is a file of weights without a configuration, which can be merged with others of its kind "
                "and nothing else; name the model's folder",
                path=base,
            )
        return Model(reference, open_weights(base), {}, base, (base,))
    known = bases.get(base) if bases is not None else None
    model = known or (_open_gguf(base) if is_gguf(base) else _open_folder(base))
    if bases is not None:
        bases[base] = model
    checkpoint, config, ranks, notes = model.checkpoint, model.config, [], list(model.notes)
    for adapter in adapters:
        adapted = with_adapter(checkpoint, config, base, adapter)
        checkpoint, config = adapted.checkpoint, adapted.config
        ranks.append(adapted.rank)
        notes += adapted.notes
    return replace(
        model,
        reference=reference,
        checkpoint=checkpoint,
        config=config,
        files=(base, *adapters),
        notes=tuple(notes),
        lora_ranks=tuple(ranks),
        headers_only=headers_only and (base / HEADERS_ONLY).exists(),
    )


def in_layout(model: Model, layout: str) -> Model:
    """The same model under the names, rows and configuration keys of an older layout; `bare`: without the prefix of its
    class, as the first GPT-2, BLOOM and OPT were published. Raises CheckpointError."""
    if layout == "bare":
        plain = without_prefix(model.checkpoint.tensors)
        maps = {short: RowMap((name,)) for short, name in plain.items()}
        return replace(model, checkpoint=RowMappedCheckpoint(model.checkpoint, ordered(maps)))
    scheme = scheme_named(layout, model.config)
    try:
        config = translate_config_back(scheme, model.config)
    except CheckpointError as error:
        raise CheckpointError(f"{model.reference}: {error}") from error
    maps = map_rows_back(scheme, model.home, model.checkpoint.tensors, model.config)
    view = RowMappedCheckpoint(model.checkpoint, ordered(maps))
    return replace(model, checkpoint=view, config=config, config_file=scheme.config.get("file", "config.json"))


def _open_folder(folder: Path) -> Model:
    check_links(folder)
    check_companions(folder)
    config, config_file = _read_config(folder)
    stored, aliases, passed_over = _open_weights(folder, config)
    files, quantization, unused = decode_quantized(stored, config, folder)
    names = _Names.of(folder, files, aliases, config)
    scheme, canonical_config, kept_because = _detect(folder / config_file, config, names.infos)
    if scheme is None:
        maps, left_out, canonical_config, notes = _keep_names(folder, names, canonical_config)
    else:
        maps, left_out = map_rows(scheme, folder, names.infos, canonical_config)
        maps, notes = {name: names.in_files(row_map) for name, row_map in maps.items()}, []
    left_out |= names.tied | unused
    check_layers(folder, maps, canonical_config)
    view = RowMappedCheckpoint(files, ordered(maps))
    canonical_config, twin, untied_note = own_output(view, canonical_config, (folder / HEADERS_ONLY).exists())
    if twin:
        left_out[twin] = TIED
        del maps[twin]
        view = RowMappedCheckpoint(files, ordered(maps))
    check_integers(folder, view.tensors)
    if not kept_because:
        check_shapes(folder / config_file, view.tensors, canonical_config)
    untouched = scheme is None and not left_out and all(m.sources == (name,) for name, m in maps.items())
    return Model(
        reference=str(folder),
        checkpoint=files if untouched else view,
        config=canonical_config,
        home=folder,
        files=(folder,),
        scheme=scheme,
        left_out=left_out,
        renamed=not notes and names.wrapped,
        notes=(*passed_over, *notes, *untied_note),
        kept_because=kept_because,
        quantization=quantization,
    )


@dataclass(frozen=True)
class _Names:
    """The names in a model's files without what frameworks put around them. `in_file`: name -> name in the files;
    `infos`: of tensors that are weights of their own; `tied`: name -> reason of those that are another one again."""

    in_file: dict[str, str]
    infos: dict[str, TensorInfo]
    tied: dict[str, str]

    @classmethod
    def of(cls, folder: Path, files: Checkpoint, aliases: dict[str, str], config: dict[str, Any]) -> _Names:
        try:
            in_file = unwrap(files.tensors)
        except ValueError as error:
            raise CheckpointError(f"{folder}: {error}", path=folder) from error
        plain = {name: short for short, name in in_file.items()}
        tied = tied_twins({plain[a]: plain[b] for a, b in aliases.items()}, config)
        return cls(in_file, {name: files.tensors[long] for name, long in in_file.items() if name not in tied}, tied)

    @property
    def wrapped(self) -> bool:
        return any(name != long for name, long in self.in_file.items())

    def in_files(self, row_map: RowMap) -> RowMap:
        return replace(row_map, sources=tuple(self.in_file[source] for source in row_map.sources))


def _keep_names(
    folder: Path, names: _Names, config: dict[str, Any]
) -> tuple[dict[str, RowMap], dict[str, str], dict[str, Any], list[str]]:
    """(where each tensor lies, what is left out, the configuration, notes) of names that no scheme translates."""
    infos, in_file, config, notes = without_wrapper(names.infos, names.in_file, config, folder)
    left_out = buffers_among(infos)
    return {name: RowMap((in_file[name],)) for name in infos if name not in left_out}, left_out, config, notes


def _detect(
    path: Path, raw_config: dict[str, Any], infos: dict[str, TensorInfo]
) -> tuple[Scheme | None, dict[str, Any], str | None]:
    """(the layout, None where names are canonical or stay as they are; the canonical configuration; why they stay)."""
    scheme = detect_scheme(infos, config=raw_config)
    if scheme is None:
        return None, raw_config, None
    try:
        return scheme, translate_config(scheme, path, raw_config, infos), None
    except NoTransformersClass as reason:  # still mergeable with models of the same names
        return None, raw_config, str(reason)


def _open_weights(folder: Path, config: dict[str, Any]) -> tuple[Checkpoint, dict[str, str], tuple[str, ...]]:
    """(the tensors under the names in the files, tied names of PyTorch files, notes on files that are not read)."""
    files, _ = find_weights(folder)
    if len(files) == 1 or not all(path.name.startswith("consolidated.") for path in files):
        weights = WeightsFolder(folder)
        return weights, weights.aliases, weights.notes
    parts = [open_weights(path) for path in files]
    scheme = detect_scheme(parts[0].tensors, config=config)
    if scheme is None or not scheme.columns:
        raise CheckpointError(
            f"{folder}: {len(files)} consolidated files in an unknown layout; join them into one file first",
            path=folder,
        )
    axes = {name: _split_axis(scheme, name, info, config) for name, info in parts[0].tensors.items()}
    return JoinedCheckpoint(parts, files, axes), {}, ()


def _split_axis(scheme: Scheme, name: str, info: TensorInfo, config: dict[str, Any]) -> int | None:
    """How model-parallel training split a tensor. Llama 3 splits the embedding by rows, the ones before it by
    columns."""
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
            f"{path}: GGUF architecture {shown(file.metadata.get('general.architecture'))} cannot be read; known: "
            f"{', '.join(known)}. Use the model's safetensors folder instead",
            path=path,
        )
    config = translate_config(scheme, path, file.metadata, file.tensors)
    maps, left_out = map_rows(scheme, path, file.tensors, config)
    if "model.embed_tokens.weight" not in maps:
        raise CheckpointError(f"{path}: the embedding matrix is not in it; download it again", path=path)
    check_layers(path, maps, config)
    checkpoint = RowMappedCheckpoint(file, ordered(maps))
    config["tie_word_embeddings"] = "lm_head.weight" not in maps
    config["vocab_size"] = checkpoint.tensors["model.embed_tokens.weight"].shape[0]
    check_shapes(path, checkpoint.tensors, config)
    return Model(str(path), checkpoint, config, path, (path,), scheme, left_out)


def _read_config(folder: Path) -> tuple[dict[str, Any], str]:
    """(config.json, or params.json as Meta and Mistral have it; its name)."""
    name = (
        "params.json" if (folder / "params.json").exists() and not (folder / "config.json").exists() else "config.json"
    )
    path = folder / name
    if not path.exists():
        if (folder / "adapter_config.json").exists():
            base = read_peft_config(folder).get("base_model_name_or_path") or "the model it was trained on"
            raise CheckpointError(
                f"{folder}: is an adapter and no model; name it behind its base, as BASE+{folder} (BASE is {base})",
                path=folder,
            )
        raise CheckpointError(f"{path}: not there; a model folder needs its config.json", path=path)
    config = read_json(path)
    if name == "config.json":
        check_values(path, config)
    return config, name
