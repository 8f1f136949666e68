"""A LoRA adapter as llama.cpp reads one: GGUF with `NAME.lora_a` and `NAME.lora_b` beside the names of the base's GGUF
file.

Whatever llama.cpp's layout does with the rows of a weight is done with the rows of B. A weight that is fused from
several gets the rank of all their adapters together: A has their A's one under the other, B their B's side by side,
each in its own rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weightsmith.checkpoint.checkpoint import Checkpoint, TensorInfo, natural_key
from weightsmith.checkpoint.dtypes import convert
from weightsmith.checkpoint.views.adapters.low_rank import LowRank
from weightsmith.checkpoint.views.adapters.peft_adapter import PeftAdapter, read_peft_adapter
from weightsmith.checkpoint.views.row_mapped import RowMap, RowMappedCheckpoint
from weightsmith.errors import CheckpointError, ExportError, OutputError
from weightsmith.files.inputs.read_input import read_json
from weightsmith.files.output_folder import check_apart, check_place
from weightsmith.files.write_whole import writing_whole
from weightsmith.models.adapter import layout_with
from weightsmith.models.model import Model
from weightsmith.models.naming.detect import schemes_of
from weightsmith.models.naming.map_tensors import map_rows, map_rows_back
from weightsmith.models.naming.scheme import Scheme, known_schemes
from weightsmith.models.open_model import open_model

TYPES = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16)}


@dataclass(frozen=True)
class AdapterSummary:
    """`weights`: how many the adapter changes; `rank`: the largest."""

    out: Path
    weights: int
    rank: int
    bytes: int


def is_adapter(path: Path) -> bool:
    """A folder with an adapter in peft's format and no model."""
    return (path / "adapter_config.json").is_file() and not (path / "config.json").exists()


def export_adapter(
    adapter: Path,
    out: Path,
    *,
    base: str | None = None,
    type: str = "f16",
    name: str | None = None,
    force: bool = False,
) -> AdapterSummary:
    """Write the peft folder `adapter` as a GGUF file that `llama-cli --lora` takes. `base`: the model it was trained
    on, of which headers are read; by default the one that adapter_config.json names. Raises CheckpointError,
    ExportError or OutputError."""
    if type not in TYPES:
        raise ExportError(f"an adapter is written as {' or '.join(TYPES)}, not {type}")
    if out.suffix != ".gguf":
        raise OutputError(f"{out}: the name of an adapter's file ends in .gguf", path=out)
    check_apart(out, [adapter, *([Path(base)] if base and Path(base).exists() else [])])
    check_place(out)
    if out.exists() and not force:
        raise OutputError(f"{out}: exists; choose another name, or replace it with --force", path=out)
    read = read_peft_adapter(adapter)
    if not read.is_plain:
        raise ExportError(
            f"{adapter}: changes more than linear layers by plain LoRA, such as {_more(read)}, which llama.cpp "
            "does not "
            "read in an adapter. Merge it into its base and export that"
        )
    pairs = {name: pair for name, (pair, _) in read.linear.items()}
    reference = base or read_json(adapter / "adapter_config.json", error=ExportError).get("base_model_name_or_path")
    if not reference:
        raise ExportError(
            f"{adapter}: adapter_config.json does not name the base model; name it with --base", path=adapter
        )
    try:
        model = open_model(str(reference), headers_only=True)
    except CheckpointError as error:
        raise CheckpointError(f"{error}. It is the adapter's base; name it with --base") from error
    scheme = _gguf_scheme(model)
    adapted_weights = _in_gguf(pairs, model, scheme, adapter)
    architecture = scheme.detect["metadata"]["general.architecture"]
    out.parent.mkdir(parents=True, exist_ok=True)
    with writing_whole(out) as partial:
        _write(adapted_weights, partial, architecture, name or adapter.resolve().name, TYPES[type])
    return AdapterSummary(
        out, len(adapted_weights), max(len(pair.a) for pair in adapted_weights.values()), out.stat().st_size
    )


def _more(read: PeftAdapter) -> str:
    """One thing that an adapter changes besides."""
    if read.experts:
        return f"parameters of {next(iter(read.experts))}"
    others = sorted(read.names - read.linear.keys())
    return others[0] if others else f"the lengths of rows (DoRA) of {next(iter(read.linear))}"


def _gguf_scheme(model: Model) -> Scheme:
    for scheme in schemes_of(model.config):
        if scheme.layout == "gguf":
            return scheme
    known = [scheme.config["set"].get("model_type") for scheme in known_schemes() if scheme.layout == "gguf"]
    raise ExportError(
        f"{model.reference}: adapters of {model.config.get('model_type')} models cannot be written as GGUF yet; those "
        f"of {', '.join(map(str, known))} can. Merge the adapter into its base and export that"
    )


def _in_gguf(pairs: Mapping[str, LowRank], model: Model, scheme: Scheme, adapter: Path) -> dict[str, LowRank]:
    """The factors by llama.cpp's names; scale is 1. Raises ExportError for factors that are not finite."""
    for name, pair in pairs.items():
        if not (pair.a.isfinite().all() and pair.b.isfinite().all()):
            raise ExportError(
                f"{adapter}: the change of {name!r} holds NaN or infinities; train it again", path=adapter
            )
    trained_tensors, row_maps = _as_trained(set(pairs), model, adapter)
    stacked = _StackedRanks(trained_tensors, pairs, adapter)
    canonical: Checkpoint = RowMappedCheckpoint(stacked, row_maps) if row_maps else stacked
    maps = map_rows_back(scheme, model.home, model.checkpoint.tensors, model.config)
    changed = {name: row_map for name, row_map in maps.items() if _adapted(row_map, row_maps, pairs)}
    rows = RowMappedCheckpoint(canonical, changed)
    import torch

    low_rank = {}
    for name, row_map in sorted(changed.items(), key=lambda item: natural_key(item[0])):
        if row_map.transposed:
            raise ExportError(
                f"{adapter}: {name!r} is transposed in {scheme.name}; merge the adapter into its base and export that",
                path=adapter,
            )
        info = rows.tensors[name]
        b = np.empty(info.numel, np.float32)
        rows.read(name, 0, info.numel, b)
        columns = [stacked.columns[source] for source in _adapted(row_map, row_maps, pairs)]
        b = b.reshape(info.shape)[:, np.concatenate(columns)]
        a = np.concatenate([pairs[source].a.numpy() for source in _adapted(row_map, row_maps, pairs)])
        low_rank[name] = LowRank(torch.from_numpy(a), torch.from_numpy(b), 1.0)
    return low_rank


def _as_trained(names: set[str], model: Model, adapter: Path) -> tuple[Mapping[str, TensorInfo], dict[str, RowMap]]:
    """(the base's tensors in the layout that the adapter was trained in, how today's are made of them; empty: they are
    today's)."""
    current = model.checkpoint.tensors
    if names <= current.keys():
        return current, {}
    if low_rank := layout_with(names, model.checkpoint, model.config, model.home):
        scheme, view = low_rank
        return view.tensors, map_rows(scheme, model.home, view.tensors, model.config)[0]
    raise CheckpointError(
        f"{adapter}: adapts {min(names - current.keys())!r}, which the base model {model.reference} does not have",
        path=adapter,
    )


def _adapted(row_map: RowMap, row_maps: Mapping[str, RowMap], pairs: Mapping[str, LowRank]) -> list[str]:
    """The trained weights that a llama.cpp weight is made of, where the adapter changes any."""
    sources = [
        trained for source in row_map.sources for trained in (row_maps[source].sources if row_maps else (source,))
    ]
    return [source for source in dict.fromkeys(sources) if source in pairs]


class _StackedRanks:
    """B of every weight, with a column for each rank of every adapter, so that rows of several weights can be laid one
    under the other; weights without one are zero."""

    def __init__(self, trained_tensors: Mapping[str, TensorInfo], pairs: Mapping[str, LowRank], adapter: Path) -> None:
        self._pairs, self.columns, width = pairs, {}, 0
        for name, pair in pairs.items():
            pair.check_fits(adapter, name, trained_tensors[name].shape)
            self.columns[name] = np.arange(width, width + len(pair.a))
            width += len(pair.a)
        self.tensors = {
            name: TensorInfo((info.shape[0], width), "F32") if len(info.shape) == 2 else info
            for name, info in trained_tensors.items()
        }

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        whole = np.zeros(self.tensors[name].shape, np.float32)
        if name in self._pairs:
            whole[:, self.columns[name]] = self._pairs[name].b.numpy() * self._pairs[name].scale
        convert(whole.reshape(-1)[start:stop], out)


def _write(low_rank: Mapping[str, LowRank], path: Path, architecture: str, name: str, dtype: np.dtype) -> None:
    from gguf import GGUFWriter

    # llama.cpp scales by alpha / rank, each weight's own rank: so much is taken out of B beforehand.
    alpha = float(max(len(pair.a) for pair in low_rank.values()))
    writer = GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_name(name)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for weight, pair in low_rank.items():
        writer.add_tensor(f"{weight}.lora_a", np.ascontiguousarray(pair.a.numpy().astype(dtype)))
        writer.add_tensor(
            f"{weight}.lora_b", np.ascontiguousarray((pair.b.numpy() * (len(pair.a) / alpha)).astype(dtype))
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
