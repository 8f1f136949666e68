"""A Hugging Face folder's weights: one safetensors file, or shards with an index."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from weightsmith.checkpoint.safetensors_file import SafetensorsFile
from weightsmith.checkpoint.tensor import TensorInfo
from weightsmith.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class SafetensorsFolder:
    """All tensors of a folder as one checkpoint."""

    def __init__(self, folder: Path) -> None:
        self._home: dict[str, SafetensorsFile] = {}
        self.tensors: dict[str, TensorInfo] = {}
        listed: dict[str, str] | None = None
        if (folder / INDEX).exists():
            listed = _read_index(folder / INDEX)
            names = sorted(set(listed.values()))
        elif (folder / SINGLE).exists():
            names = [SINGLE]
        else:
            names = sorted(p.name for p in folder.glob("*.safetensors") if p.name != "adapter_model.safetensors")
        if not names:
            raise CheckpointError(f"{folder}: no safetensors file in it; weights are read from .safetensors or .gguf")
        for name in names:
            if not (folder / name).is_file():
                raise CheckpointError(f"{folder / INDEX}: names the shard {name}, which is not there; download it")
            shard = SafetensorsFile(folder / name)
            for tensor, info in shard.tensors.items():
                if tensor in self._home:
                    raise CheckpointError(
                        f"{folder}: tensor {tensor!r} is in {self._home[tensor].path.name} and in {name}"
                    )
                self._home[tensor], self.tensors[tensor] = shard, info
        for tensor in listed or {}:
            if tensor not in self.tensors:
                raise CheckpointError(f"{folder / INDEX}: lists tensor {tensor!r}, which no shard holds")

    def read(self, name: str, start: int, stop: int, out: torch.Tensor) -> None:
        self._home[name].read(name, start, stop, out)


def _read_index(path: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = {str(k): str(v) for k, v in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a safetensors index: {error}") from error
    for shard in names.values():
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(f"{path}: {shard!r} is not a file name in this folder")
    return names
