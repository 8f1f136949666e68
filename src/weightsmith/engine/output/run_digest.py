"""The identity of a run, in a few digests: only the same run may resume an interrupted one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.weights_folder import find_weights
from weightsmith.errors import MergeError
from weightsmith.files.digests import digest, file_digest
from weightsmith.files.find_path import path_beside
from weightsmith.files.inputs.read_input import read_text
from weightsmith.methods.from_text.text_parameters import RANDOM
from weightsmith.models.model import Model
from weightsmith.planning.plan import Plan, TensorPlan
from weightsmith.recipe.recipe import Recipe
from weightsmith.tokenizer.tokenizer_files import companion_digests
from weightsmith.version import __version__

_SAMPLES, _SAMPLE = 256, 4096  # how many, and bytes of each
_HEAD = 1 << 20  # bytes of a file of weights that are hashed: its header, with most files


def run_digest(
    plan: Plan, shard_bytes: int, seed: int, device: str, mappings: Mapping[str, Path] | None = None
) -> dict[str, str]:
    """`recipe`, `inputs` (names, sizes, times and sampled content of all files), `layout` of the output, `seed`,
    `device`, `version`, the content of the `texts` that the method reads, the `method`
    where it is not one of ours, and the files `mappings` where there are any."""
    return {
        "recipe": digest(plan.recipe.text_with_stages),
        "inputs": inputs_digest(plan.models.values()),
        "layout": _layout(plan.tensors, plan.config, shard_bytes),
        "seed": str(seed),
        "device": device,
        "version": __version__,
        **({"texts": _texts(plan)} if plan.method.reads_text else {}),
        **({"method": plan.method.identity} if plan.method.identity else {}),
        **({"mappings": digest({model: read_text(path) for model, path in mappings.items()})} if mappings else {}),
    }


def text_digest(recipe: Recipe, text: str) -> str:
    """Names the content of a text that a recipe names. Raises MergeError."""
    path = path_beside(text, recipe.file.path.parent)
    try:
        return RANDOM if text == RANDOM else file_digest(path)
    except OSError as error:
        raise MergeError(f"{path}: cannot be read: {error.strerror}", path=path) from error


def _texts(plan: Plan) -> str:
    named = {values["text"] for t in plan.tensors for values in t.settings.per_input if "text" in values}
    return digest({text: text_digest(plan.recipe, text) for text in sorted(named)})


def copy_digest(
    model: Model, tensors: Sequence[TensorPlan], shard_bytes: int, request: Sequence[object]
) -> dict[str, str]:
    """The same of a run that writes one model's tensors under other names or in another order; `request`: what was
    asked for."""
    return {
        "inputs": inputs_digest([model]),
        "layout": _layout(tensors, model.config, shard_bytes),
        "conversion": digest([request, model.conversion, [[s.tensor for s in tensor.sources] for tensor in tensors]]),
        "version": __version__,
    }


def _layout(tensors: Sequence[TensorPlan], config: Mapping[str, object], shard_bytes: int) -> str:
    return digest([[[t.name, t.info.shape, t.info.dtype, t.round_to] for t in tensors], config, shard_bytes])


def inputs_digest(models: Iterable[Model]) -> str:
    """Two digests: of the content of all files, where bytes from all over a file of weights stand for it, and of the
    times of those."""
    times: list[Any] = []
    content: list[Any] = []
    for model in sorted(models, key=lambda model: model.reference):
        content.append([model.reference, companion_digests(model.home)])
        for path in (file for path_of_model in model.files for file in files_of(path_of_model)):
            state = path.stat()
            times.append(state.st_mtime_ns)
            content.append([model.reference, path.name, state.st_size, _sampled(path, state.st_size)])
    return f"{digest(content)} {digest(times)}"


def output_digest(run: Mapping[str, str]) -> str:
    """What an output is made from, as `run` says it, without the times of its inputs."""
    content, _, _ = run["inputs"].partition(" ")
    return digest({**run, "inputs": content})


def _sampled(path: Path, size: int) -> str:
    """A digest of a file's first bytes, its last ones, and some from all over it."""
    with path.open("rb") as file:
        sampled = hashlib.sha256(file.read(_HEAD))
        for number in range(_SAMPLES if size > _HEAD else 0):
            file.seek((size - _SAMPLE) * number // (_SAMPLES - 1))
            sampled.update(file.read(_SAMPLE))
    return sampled.hexdigest()


def input_files(models: Iterable[Model]) -> list[Path]:
    """All files that models are read from: weights and what lies beside them."""
    files = []
    for model in models:
        files += [path for path_of_model in model.files for path in files_of(path_of_model)]
        if model.home.is_dir():
            files += [path for path in model.home.iterdir() if path.is_file()]
    return files


def files_of(path_of_model: Path) -> list[Path]:
    """The files of weights of a model or adapter."""
    if path_of_model.is_file():
        return [path_of_model]
    adapter = sorted(path_of_model.glob("adapter_*"))
    return adapter if adapter and not (path_of_model / "config.json").exists() else find_weights(path_of_model)[0]
