"""Statistics on the disk: a folder for each model and text, which lies beside the model and appears only when it is
whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weightsmith.checkpoint.formats.safetensors_file import SafetensorsFile
from weightsmith.errors import CheckpointError, OutputError
from weightsmith.files.inputs.read_input import read_json
from weightsmith.files.user_cache import user_cache
from weightsmith.models.model import Model

if TYPE_CHECKING:
    import torch

ABOUT = "statistics.json"
_SAME, _MEANS = "same", "means"


def statistics_folder(model: Model, key: str) -> Path:
    """Where statistics of a model with the digest `key` lie: in `NAME.statistics` beside its folder or file, or, where
    that is the hub's cache or cannot be written, in the user's cache (`XDG_CACHE_HOME`)."""
    of = model.files[-1].absolute()
    beside = of.parent / f"{of.name}.statistics"
    if "snapshots" not in of.parts and (os.access(beside if beside.exists() else of.parent, os.W_OK)):
        return beside / key[:32]
    return user_cache() / "statistics" / key[:32]


@contextmanager
def written_folder(folder: Path) -> Iterator[Path]:
    """A folder that becomes `folder` when all of it is written. Raises OutputError."""
    partial = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        yield partial
        if not (folder / ABOUT).is_file():  # else another command was faster, with the same
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}", path=folder) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):  # where other statistics are in it
            folder.parent.rmdir()


def write_layer(folder: Path, number: int, tensors: Mapping[str, torch.Tensor]) -> None:
    """One layer's statistics."""
    from safetensors.torch import save_file

    if tensors:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / f"{number:05d}.safetensors")


def write_about(
    folder: Path, about: Mapping[str, Any], *, same: Mapping[str, str] | None = None, means: Mapping[str, float] | None
) -> None:
    """What they are statistics of, and what belongs to no layer."""
    content = {**about, _SAME: dict(same or {}), _MEANS: dict(means or {})}
    (folder / ABOUT).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


class StoredStatistics:
    """Those in one folder, by the name of a weight."""

    def __init__(self, folder: Path) -> None:
        about = read_json(folder / ABOUT)
        same: Any = about.get(_SAME)
        means: Any = about.get(_MEANS)
        if not _holds(same, str) or not _holds(means, int | float):
            raise CheckpointError(f"{folder / ABOUT}: is damaged; remove {folder}", path=folder)
        self._same: dict[str, str] = same
        self.means: dict[str, float] = means
        self._folder = folder
        self._files: dict[str, SafetensorsFile] = {}
        for path in sorted(folder.glob("*.safetensors")):
            file = SafetensorsFile(path)
            self._files |= dict.fromkeys(file.tensors, file)

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> torch.Tensor | None:
        """float32, flat, or in its shape where all of it is asked for; None where there is none."""
        import torch

        name = self._same.get(name, name)
        file = self._files.get(name)
        if file is None:
            return None
        info = file.tensors[name]
        begin, end = start or 0, info.numel if stop is None else stop
        if end > info.numel or info.dtype != "F32":
            raise self.damaged(name)
        out = np.empty(end - begin, np.float32)
        file.read(name, begin, end, out)
        return torch.from_numpy(out) if stop is not None else torch.from_numpy(out).reshape(info.shape)

    def damaged(self, name: str) -> CheckpointError:
        """What is there for a weight does not fit it."""
        return CheckpointError(
            f"{self._folder}: its statistics of {name} do not fit the weight; remove the folder, and they are "
            "collected again",
            path=self._folder,
        )


def _holds(value: Any, kind: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(entry, kind) for entry in value.values())


@lru_cache(maxsize=64)
def opened(folder: Path) -> StoredStatistics:
    """Those in `folder`. Raises CheckpointError where they are damaged."""
    return StoredStatistics(folder)


@dataclass(frozen=True)
class StatisticsOfTensor:
    """What was collected for one output tensor (`methods.tensor_settings.TextStatistics`). `places`: for each input the
    folder, or None, and the tensor's name there; `whole`: its elements lie as the model's own do."""

    places: Sequence[tuple[Path | None, str]]
    whole: bool = True

    def gram(self, number: int) -> torch.Tensor | None:
        folder, name = self.places[number]
        found = opened(folder).read(name) if folder and self.whole else None
        if folder and found is not None and (found.ndim != 2 or found.shape[0] != found.shape[1]):
            raise opened(folder).damaged(name)
        return found

    def fisher(self, number: int, start: int, stop: int) -> torch.Tensor | None:
        folder, name = self.places[number]
        return opened(folder).read(name, start, stop) if folder and self.whole else None

    def mean_fisher(self, number: int) -> float:
        folder, name = self.places[number]
        return float(opened(folder).means.get(name, 0.0)) if folder and self.whole else 0.0


@dataclass(frozen=True)
class StandIn:
    """Statistics of no text, for estimates of time: the inputs of all matrices are alike."""

    width: int

    def gram(self, number: int) -> torch.Tensor | None:
        import torch

        return torch.eye(self.width)

    def fisher(self, number: int, start: int, stop: int) -> torch.Tensor | None:
        import torch

        return torch.ones(stop - start)

    def mean_fisher(self, number: int) -> float:
        return 1.0
