"""A LoRA adapter as llama.cpp reads one: GGUF with `NAME.lora_a` and `NAME.lora_b` beside the names of the base's GGUF file.

Whatever llama.cpp's layout does with the rows of a weight is done with the rows of B. A weight that is fused from several gets the rank
of all their adapters together: A has their A's one under the other, B their B's side by side, each in its own rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weightsmith.architecture import Model, open_model
from weightsmith.architecture.adapter import layout_with
from weightsmith.architecture.row_map import RowMap, RowMappedCheckpoint
from weightsmith.architecture.scheme import Scheme, known_schemes, map_rows, map_rows_back, schemes_of
from weightsmith.checkpoint.lora import LowRank, read_adapter
from weightsmith.checkpoint.tensor import Checkpoint, TensorInfo, convert, natural_key
from weightsmith.errors import CheckpointError, ExportError, OutputError

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
    """Write the peft folder `adapter` as a GGUF file that `llama-cli --lora` takes. `base`: the model it was trained on, of which
    headers are read; by default the one that adapter_config.json names. Raises CheckpointError, ExportError or OutputError."""
    if type not in TYPES:
        raise ExportError(f"an adapter is written as {' or '.join(TYPES)}, not {type}")
    if out.suffix != ".gguf":
        raise OutputError(f"{out}: the name of an adapter's file ends in .gguf")
    if out.exists() and not force:
        raise OutputError(f"{out}: exists; choose another name, or replace it with --force")
    pairs = read_adapter(adapter)
    reference = base or json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")).get(
        "base_model_name_or_path"
    )
    if not reference:
        raise ExportError(f"{adapter}: adapter_config.json does not name the base model; name it with --base")
    try:
        model = open_model(str(reference), headers_only=True)
    except CheckpointError as error:
        raise CheckpointError(f"{error}. It is the adapter's base; name it with --base") from error
    scheme = _gguf_scheme(model)
    low_rank = _in_gguf(pairs, model, scheme, adapter)
    architecture = scheme.detect["metadata"]["general.architecture"]
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    try:
        _write(low_rank, partial, architecture, name or adapter.resolve().name, TYPES[type])
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return AdapterSummary(out, len(low_rank), max(len(one.a) for one in low_rank.values()), out.stat().st_size)


def _gguf_scheme(model: Model) -> Scheme:
    for scheme in schemes_of(model.config):
        if scheme.layout == "gguf":
            return scheme
    known = [scheme.config["set"].get("model_type") for scheme in known_schemes() if scheme.layout == "gguf"]
    raise ExportError(
        f"{model.reference}: adapters of {model.config.get('model_type')} models cannot be written as GGUF yet; those of {', '.join(map(str, known))} can. "
        "Merge the adapter into its base and export that"
    )


def _in_gguf(pairs: Mapping[str, LowRank], model: Model, scheme: Scheme, adapter: Path) -> dict[str, LowRank]:
    """By llama.cpp's names; scale is 1."""
    there, back = _as_trained(set(pairs), model, adapter)
    stretched = _Stretched(there, pairs, adapter)
    canonical: Checkpoint = RowMappedCheckpoint(stretched, back) if back else stretched
    maps = map_rows_back(scheme, model.home, model.checkpoint.tensors, model.config)
    wanted = {name: row_map for name, row_map in maps.items() if _adapted(row_map, back, pairs)}
    rows = RowMappedCheckpoint(canonical, wanted)
    import torch

    found = {}
    for name, row_map in sorted(wanted.items(), key=lambda item: natural_key(item[0])):
        if row_map.transposed:
            raise ExportError(
                f"{adapter}: {name!r} is transposed in {scheme.name}; merge the adapter into its base and export that"
            )
        info = rows.tensors[name]
        b = np.empty(info.numel, np.float32)
        rows.read(name, 0, info.numel, b)
        columns = [stretched.columns[source] for source in _adapted(row_map, back, pairs)]
        b = b.reshape(info.shape)[:, np.concatenate(columns)]
        a = np.concatenate([pairs[source].a.numpy() for source in _adapted(row_map, back, pairs)])
        found[name] = LowRank(torch.from_numpy(a), torch.from_numpy(b), 1.0)
    return found


def _as_trained(names: set[str], model: Model, adapter: Path) -> tuple[Mapping[str, TensorInfo], dict[str, RowMap]]:
    """(the base's tensors in the layout that the adapter was trained in, how today's are made of them; empty: they are today's)."""
    today = model.checkpoint.tensors
    if names <= today.keys():
        return today, {}
    if found := layout_with(names, model.checkpoint, model.config, model.home):
        scheme, view = found
        return view.tensors, map_rows(scheme, model.home, view.tensors, model.config)[0]
    raise CheckpointError(
        f"{adapter}: adapts {min(names - today.keys())!r}, which the base model {model.reference} does not have"
    )


def _adapted(row_map: RowMap, back: Mapping[str, RowMap], pairs: Mapping[str, LowRank]) -> list[str]:
    """The trained weights that a llama.cpp weight is made of, where the adapter changes any."""
    sources = [trained for source in row_map.sources for trained in (back[source].sources if back else (source,))]
    return [source for source in dict.fromkeys(sources) if source in pairs]


class _Stretched:
    """B of every weight, with a column for each rank of every adapter, so that rows of several weights can be laid one under the
    other; weights without one are zero."""

    def __init__(self, there: Mapping[str, TensorInfo], pairs: Mapping[str, LowRank], adapter: Path) -> None:
        self._pairs, self.columns, width = pairs, {}, 0
        for name, pair in pairs.items():
            pair.check_fits(adapter, name, there[name].shape)
            self.columns[name] = np.arange(width, width + len(pair.a))
            width += len(pair.a)
        self.tensors = {
            name: TensorInfo((info.shape[0], width), "F32") if len(info.shape) == 2 else info
            for name, info in there.items()
        }

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        whole = np.zeros(self.tensors[name].shape, np.float32)
        if name in self._pairs:
            whole[:, self.columns[name]] = self._pairs[name].b.numpy() * self._pairs[name].scale
        convert(whole.reshape(-1)[start:stop], out)


def _write(low_rank: Mapping[str, LowRank], path: Path, architecture: str, name: str, dtype: np.dtype) -> None:
    from gguf import GGUFWriter

    # llama.cpp scales by alpha / rank, each weight's own rank: so much is taken out of B beforehand.
    alpha = float(max(len(one.a) for one in low_rank.values()))
    writer = GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_name(name)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for weight, one in low_rank.items():
        writer.add_tensor(f"{weight}.lora_a", np.ascontiguousarray(one.a.numpy().astype(dtype)))
        writer.add_tensor(
            f"{weight}.lora_b", np.ascontiguousarray((one.b.numpy() * (len(one.a) / alpha)).astype(dtype))
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
