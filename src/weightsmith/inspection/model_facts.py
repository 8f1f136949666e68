"""What one model is, from its headers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from weightsmith.checkpoint.checkpoint import TensorInfo
from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.checkpoint.weights_folder import find_weights
from weightsmith.files.inputs.read_input import read_json
from weightsmith.models.model import Model
from weightsmith.models.parts.embeddings import embedding_rows, is_tied, output_name
from weightsmith.models.parts.stacks import find_stacks


@dataclass(frozen=True)
class ModelFacts:
    """`dtypes`: those on disk, the one of most weights first; `vocabulary`: the number of embedding rows; `tied`: the
    output matrix is the embedding; `left_out`: tensors that are no weights -> why; `asks_for_code`: what config.json's
    auto_map names, which is never followed; `quantization`: the format that weights are decoded from."""

    reference: str
    architecture: str
    naming: str
    layers: int
    parameters: int
    dtypes: tuple[str, ...]
    vocabulary: int | None
    tied: bool
    files: int
    bytes: int
    lora_rank: int | None
    quantization: str | None
    left_out: dict[str, str]
    asks_for_code: tuple[str, ...]


def model_facts(model: Model) -> ModelFacts:
    """The facts of an opened model."""
    infos = model.checkpoint.tensors
    weights = [model.home] if model.is_gguf else find_weights(model.home)[0]
    architectures = model.config.get("architectures") or [str(model.config.get("model_type", "unknown"))]
    return ModelFacts(
        reference=model.reference,
        architecture=str(architectures[0]),
        naming=model.naming,
        layers=find_stacks(infos, model.config).depth,
        parameters=sum(info.numel for info in infos.values()),
        dtypes=tuple(GGUFFile(model.home).ggml_types()) if model.is_gguf else _dtypes(infos),
        vocabulary=embedding_rows(infos),
        tied=output_name(infos) is None and (is_tied(model.config) or model.is_gguf),
        files=len(weights),
        bytes=sum(path.stat().st_size for path in weights),
        lora_rank=max(model.lora_ranks, default=None),
        quantization=model.quantization,
        left_out=model.left_out,
        asks_for_code=asked_code(model),
    )


def asked_code(model: Model) -> tuple[str, ...]:
    """What a config.json's auto_map would have run."""
    if model.is_gguf:
        return ()
    for name in ("config.json", "params.json"):
        if (model.home / name).exists():
            auto_map = read_json(model.home / name).get("auto_map")
            return tuple(str(value) for value in auto_map.values()) if isinstance(auto_map, dict) else ()
    return ()


def main_dtype(infos: Mapping[str, TensorInfo]) -> str:
    """The dtype of most weights."""
    return next(iter(_dtypes(infos)), "none")


def _dtypes(infos: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    counted: Counter[str] = Counter()
    for info in infos.values():
        counted[info.dtype] += info.numel
    return tuple(name for name, _ in counted.most_common())
