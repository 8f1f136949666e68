"""A folder's weights: safetensors or PyTorch files, single, or as shards with an index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from weightsmith.checkpoint.checkpoint import TensorInfo
from weightsmith.checkpoint.formats.pytorch_file import PyTorchFile
from weightsmith.checkpoint.formats.safetensors_file import MAX_HEADER_BYTES, SafetensorsFile
from weightsmith.errors import CheckpointError, shown
from weightsmith.files.find_path import is_file_name
from weightsmith.files.inputs.read_input import parse_json, read_text

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PYTORCH_INDEX, _PYTORCH_SINGLE = "pytorch_model.bin.index.json", "pytorch_model.bin"
_PYTORCH_ENDINGS = (".bin", ".pth", ".pt")
_NO_WEIGHTS = (
    "training_args",
    "optimizer",
    "scheduler",
    "rng_state",
    "adapter_model",
)  # what trainers leave beside them

WeightsFile = SafetensorsFile | PyTorchFile


class WeightsFolder:
    """All tensors of a folder as one checkpoint. `aliases`: tied tensors that a PyTorch file lists under two names;
    `notes`: files that were passed over."""

    def __init__(self, folder: Path) -> None:
        self._home: dict[str, WeightsFile] = {}
        self.tensors: dict[str, TensorInfo] = {}
        self.aliases: dict[str, str] = {}
        self.files, listed = find_weights(folder)
        self.notes = tuple(_ignored_index(folder))
        for path in self.files:
            shard = open_weights(path)
            for tensor, info in shard.tensors.items():
                if tensor in self._home:
                    raise CheckpointError(
                        f"{folder}: tensor {tensor!r} is in {self._home[tensor].path.name} and in {path.name}; remove "
                        "the file that is not of this model",
                        path=folder,
                    )
                self._home[tensor], self.tensors[tensor] = shard, info
            self.aliases |= getattr(shard, "aliases", {})
        for tensor, shard in listed.items():
            if tensor not in self.tensors or self._home[tensor].path.name != shard:
                raise CheckpointError(
                    f"{folder}: the index lists tensor {shown(tensor)} in {shard}, which does not hold it; "
                    "download the "
                    "model again",
                    path=folder,
                )

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        self._home[name].read(name, start, stop, out)


def open_weights(path: Path) -> WeightsFile:
    """One file of weights, of either kind."""
    return SafetensorsFile(path) if path.suffix == ".safetensors" else PyTorchFile(path)


def find_weights(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """(the files that hold the weights, tensor -> file as the index says), in the order in which transformers looks for
    them: a single file comes before an index. Raises CheckpointError."""
    for index, single in ((INDEX, SINGLE), (_PYTORCH_INDEX, _PYTORCH_SINGLE)):
        if (folder / single).exists():
            return [folder / single], {}
        if (folder / index).exists():
            listed = parse_index(folder / index, read_text(folder / index, limit=MAX_HEADER_BYTES))
            for name in sorted(set(listed.values())):
                if not (folder / name).is_file():
                    raise CheckpointError(
                        f"{folder / index}: names the shard {name}, which is not there; download it into {folder}",
                        path=folder / index,
                    )
            return [folder / name for name in sorted(set(listed.values()))], listed
        if files := _others(folder, Path(single).suffix):
            return files, {}
    raise CheckpointError(
        f"{folder}: no weights in it; they are read from .safetensors, .gguf, and PyTorch's .bin and .pth files",
        path=folder,
    )


def _ignored_index(folder: Path) -> Iterator[str]:
    """An index beside the single file that is read in its place."""
    for index, single in ((INDEX, SINGLE), (_PYTORCH_INDEX, _PYTORCH_SINGLE)):
        if (folder / single).exists():
            if (folder / index).exists():
                yield f"{single} is read, as transformers does; {index} beside it is not"
            return


def _others(folder: Path, suffix: str) -> list[Path]:
    """Weights under other names. Where an original and a converted form lie side by side, the converted one."""
    endings = (suffix,) if suffix == ".safetensors" else _PYTORCH_ENDINGS
    files = [p for p in sorted(folder.iterdir()) if p.suffix in endings and not p.name.startswith(_NO_WEIGHTS)]
    return [p for p in files if not p.name.startswith("consolidated.")] or files


def parse_index(path: Path, text: str) -> dict[str, str]:
    """Tensor -> file name of an index in the form of transformers. Raises CheckpointError."""
    try:
        weight_map = parse_json(text, path, unique=True)["weight_map"]
        names = {str(k): str(v) for k, v in weight_map.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: not an index of shards: it has no `weight_map` of tensors and files; download it again", path=path
        ) from error
    if not names:
        raise CheckpointError(
            f"{path}: its `weight_map` is empty, so it lists no weights; download it again", path=path
        )
    for shard in names.values():
        if not is_file_name(shard) or not shard.endswith((".safetensors", *_PYTORCH_ENDINGS)):
            raise CheckpointError(
                f"{path}: {shown(shard)} is not the name of a file of weights in this folder", path=path
            )
    return names
