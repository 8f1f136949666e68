"""What a method that reads text has to know: read from the cache, or collected and kept there."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightsmith.engine.output.run_digest import inputs_digest, text_digest
from weightsmith.engine.run_tensors import RunSettings
from weightsmith.engine.text_statistics.stored_statistics import (
    ABOUT,
    StatisticsOfTensor,
    statistics_folder,
    write_about,
    write_layer,
    written_folder,
)
from weightsmith.errors import EvaluationError, MergeError
from weightsmith.files.digests import digest
from weightsmith.files.find_path import path_beside
from weightsmith.machine import available_memory
from weightsmith.methods.from_text.text_parameters import RANDOM
from weightsmith.models.model import Model
from weightsmith.models.parts.embeddings import embedding_name
from weightsmith.planning.plan import Plan, TensorPlan
from weightsmith.progress import OnProgress, Progress
from weightsmith.tokenizer.merged_tokenizer import write_merged_tokenizer
from weightsmith.tokenizer.untrusted.try_tokenizer import try_tokenizer

if TYPE_CHECKING:
    import numpy as np
    import torch

    from weightsmith.engine.text_statistics.layered_model import LayeredModel

_FORM = 1  # of what is collected: another one is collected again
Key = tuple[str, str]  # model reference, text


@dataclass(frozen=True)
class TextReading:
    """How a plan's models read text: at most `samples` windows of `context` tokens; `seed`: of what is drawn."""

    plan: Plan
    threads: int
    seed: int
    samples: int
    context: int
    on_progress: OnProgress

    def layer_fisher(self, model: Model, text: str) -> tuple[str, list[float]]:
        """(what the names of a layer's weights begin with, before its number; the mean Fisher information of each
        layer's elements). Raises MergeError where the model cannot read."""
        from weightsmith.engine.text_statistics.collect import collect_fisher

        _check_models(self, [model])
        layered, windows = _live(self, model), _windows(self, model, text)
        means = []
        for fishers in collect_fisher(layered, windows, self.threads, self.seed, self.progress(model.reference, text)):
            total = math.fsum(float(fisher.double().numpy().sum()) for fisher in fishers.values())
            means.append(total / sum(fisher.numel() for fisher in fishers.values()))
        return layered.prefix, means[::-1]

    def progress(self, model: str, text: str) -> Any:
        stage = f"reading {'random tokens' if text == RANDOM else Path(text).name} with {model}"
        return lambda done, total: self.on_progress(Progress(stage, done, total, "layers"))

    def path(self, text: str) -> Path:
        return path_beside(text, self.plan.recipe.file.path.parent)

    def key(self, *more: object) -> str:
        return digest([_FORM, self.plan.method.reads_text, self.samples, self.context, *more])

    def text_key(self, text: str) -> str:
        """Names the content of a text, with the seed of one that is drawn. Raises MergeError."""
        content = text_digest(self.plan.recipe, text)
        return f"{content} {self.seed}" if text == RANDOM else content


def know_text(plan: Plan, threads: int, settings: RunSettings, on_progress: OnProgress) -> dict[Key, Path]:
    """For each model and its text, the folder that holds the statistics; those that are not there yet are collected,
    and kept. Raises MergeError for a model that cannot read text, or a text that cannot be read."""
    merged = [tensor for tensor in plan.tensors if not tensor.copy]
    if not merged:
        return {}
    shared = merged[0].settings.shared
    reading = TextReading(plan, threads, settings.seed, shared["samples"], shared["context"], on_progress)
    needed: dict[Key, Model] = {}
    for tensor in merged:
        for number in tensor.settings.others:
            source = tensor.sources[number].model
            needed[source.reference, tensor.settings.per_input[number]["text"]] = plan.models[source.reference]
    _check_models(reading, needed.values())
    if plan.method.reads_text == "gram of merged inputs":
        return _of_merged_layers(reading, needed)
    return {key: _of_one_model(reading, model, key[1]) for key, model in needed.items()}


def with_text(tensor: TensorPlan, folders: Mapping[Key, Path]) -> TensorPlan:
    """With what was collected for its inputs."""
    places = [
        (folders.get((source.model.reference, values["text"])) if "text" in values else None, source.tensor)
        for source, values in zip(tensor.sources, tensor.settings.per_input, strict=True)
    ]
    statistics = StatisticsOfTensor(tuple(places), whole=tensor.experts is None)
    return replace(tensor, settings=replace(tensor.settings, text=statistics))


def _of_one_model(reading: TextReading, model: Model, text: str) -> Path:
    kind = reading.plan.method.reads_text
    content, _, _ = inputs_digest([replace(model, reference="")]).partition(" ")
    vocabulary = repr(reading.plan.vocabulary) if reading.plan.vocabulary else ""
    key = reading.key(content, reading.text_key(text), model.conversion, vocabulary, reading.seed * (kind == "fisher"))
    folder = statistics_folder(model, key)
    if (folder / ABOUT).is_file():
        return folder
    from weightsmith.engine.text_statistics.collect import collect_fisher, collect_grams

    about = {"of": model.reference, "text": text, "kind": kind, "samples": reading.samples, "context": reading.context}
    with written_folder(folder) as partial:
        layered = _live(reading, model)
        windows = _windows(reading, model, text)
        tell = reading.progress(model.reference, text)
        found: set[str] = set()
        same: dict[str, str] = {}
        means: dict[str, float] = {}
        if kind == "gram":
            for number, (grams, shared) in enumerate(collect_grams(layered, windows, reading.threads, tell)):
                write_layer(partial, number, grams)
                found |= grams.keys()
                same |= shared
        else:
            for number, fishers in enumerate(collect_fisher(layered, windows, reading.threads, reading.seed, tell)):
                write_layer(partial, number, fishers)
                found |= fishers.keys()
                means |= {name: float(fisher.double().numpy().mean()) for name, fisher in fishers.items()}
        _check_names(model, layered.prefix, found)
        write_about(partial, {**about, "tokens": sum(map(len, windows))}, same=same, means=means)
    return folder


def _of_merged_layers(reading: TextReading, needed: Mapping[Key, Model]) -> dict[Key, Path]:
    """The merge itself, layer by layer: what each layer is multiplied with follows from the merged ones before it."""
    plan = reading.plan
    contents = inputs_digest(plan.models.values()).partition(" ")[0]
    texts = [reading.text_key(text) for _, text in needed]
    key = reading.key(contents, plan.recipe.text_with_stages, texts)
    folders = {
        of: statistics_folder(model, digest([key, of[1], number])) for number, (of, model) in enumerate(needed.items())
    }
    if all((folder / ABOUT).is_file() for folder in folders.values()):
        return folders
    import torch

    from weightsmith.checkpoint.checkpoint import read_tensor
    from weightsmith.engine.in_memory import compute_tensors
    from weightsmith.engine.text_statistics.collect import gram

    _check_in_place(plan)
    tell = reading.progress("the merge", "text")
    base = plan.models[plan.tensors[0].sources[plan.tensors[0].settings.base_index].model.reference]
    layered = _live(reading, base)
    by_layer = {
        number: [t for t in plan.tensors if t.name.startswith(f"{layered.prefix}{number}.")]
        for number in range(len(layered.layers))
    }
    inside = {tensor.name for tensors in by_layer.values() for tensor in tensors}
    places = dict(layered.live.named_parameters())
    outside = [with_text(t, {}) for t in plan.tensors if t.name not in inside and t.name in places]
    _fill(places, compute_tensors(outside, plan.method, threads=reading.threads))
    windows = {of: _windows(reading, model, of[1]) for of, model in needed.items()}
    hidden = {of: layered.enter(windows[of]) for of in needed}
    same: dict[Key, dict[str, str]] = {of: {} for of in needed}
    with ExitStack() as stack:
        stack.callback(_forget_opened)
        partials = {of: stack.enter_context(written_folder(folder)) for of, folder in folders.items()}
        for number, tensors in by_layer.items():
            for of, model in needed.items():
                names = [name for name in places if name.startswith(f"{layered.prefix}{number}.")]
                _check_has(model, names)
                own = {name: read_tensor(model.checkpoint, name, torch.float32) for name in names}
                _fill(places, own)
                inputs, shared, _ = layered.inputs_of(number, hidden[of])
                write_layer(partials[of], number, {n: gram(x, reading.threads) for n, x in inputs.items()})
                same[of] |= shared
                write_about(partials[of], {"of": of[0], "text": of[1]}, same=same[of], means=None)
            merged = compute_tensors(
                [with_text(tensor, partials) for tensor in tensors], plan.method, threads=reading.threads
            )
            _forget_opened()
            _fill(places, merged)
            hidden = {of: layered.run(number, states) for of, states in hidden.items()}
            tell(number + 1, len(by_layer))
    return folders


def _forget_opened() -> None:
    from weightsmith.engine.text_statistics.stored_statistics import opened

    opened.cache_clear()


def _fill(places: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> None:
    for name, weight in weights.items():
        places[name].detach().copy_(weight)


def _live(reading: TextReading, model: Model) -> LayeredModel:
    """The model in memory. Raises MergeError where it cannot be."""
    import torch

    from weightsmith.checkpoint.checkpoint import read_tensor
    from weightsmith.engine.text_statistics.layered_model import LayeredModel
    from weightsmith.models.live_model import fill_model

    config = dict(model.config)
    embedding = embedding_name(model.checkpoint.tensors)
    if reading.plan.vocabulary and embedding:
        rows = model.checkpoint.tensors[embedding].shape[0]
        config["vocab_size"] = rows
        if isinstance(config.get("text_config"), dict):
            config["text_config"] = {**config["text_config"], "vocab_size": rows}
    weights = {name: read_tensor(model.checkpoint, name, torch.float32) for name in model.checkpoint.tensors}
    with _as_merge_error():
        live = fill_model(model.reference, config, weights, torch.float32)
    return LayeredModel(live.requires_grad_(False), model.reference, reading.threads)


def _check_models(reading: TextReading, models: Iterable[Model]) -> None:
    """Raises MergeError where one of them cannot be held in memory as a causal model of `transformers`."""
    from weightsmith.models.live_model import causal_class

    for model in models:
        with _as_merge_error():
            causal_class(model.reference, model.config)
        needed = sum(info.numel * 4 for info in model.checkpoint.tensors.values() if info.is_float)
        if needed > (free := available_memory()):
            raise MergeError(
                f"{model.reference}: to read text it takes {needed / 1e9:.1f} GB of memory in float32, and "
                f"{free / 1e9:.1f} GB are free; take a method without text"
            )


@contextmanager
def _as_merge_error() -> Iterator[None]:
    try:
        yield
    except EvaluationError as error:
        raise MergeError(f"{error}; it would have to read text", path=error.path) from error


def _windows(reading: TextReading, model: Model, text: str) -> list[np.ndarray]:
    from weightsmith.engine.text_statistics.token_windows import random_windows, text_windows

    if text == RANDOM:
        embedding = embedding_name(model.checkpoint.tensors)
        rows = model.checkpoint.tensors[embedding].shape[0] if embedding else model.config["vocab_size"]
        return random_windows(rows, reading.samples, reading.context, reading.seed)
    with _tokenizer(reading.plan, model) as tokenizer:
        return text_windows(reading.path(text), tokenizer, reading.samples, reading.context)


@contextmanager
def _tokenizer(plan: Plan, model: Model) -> Iterator[Any]:
    """Of the model, or the united one. Raises MergeError."""
    from weightsmith.tokenizer.load_tokenizer import load_tokenizer

    with tempfile.TemporaryDirectory() as scratch:
        home = model.home
        if plan.vocabulary:
            write_merged_tokenizer(plan.home, plan.vocabulary, None, home := Path(scratch))
        try_tokenizer(home)
        with _as_merge_error():
            tokenizer = load_tokenizer(home)
        yield tokenizer


def _check_names(model: Model, prefix: str, found: Iterable[str]) -> None:
    if not any(name in model.checkpoint.tensors for name in found):
        raise MergeError(
            f"{model.reference}: none of the weights of its layers ({prefix}0...) has the name that its file gives it; "
            "methods that read text cannot use what they collect; take one without text"
        )


def _check_has(model: Model, names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in model.checkpoint.tensors]:
        raise MergeError(
            f"{model.reference}: its class keeps {missing[0]}, which its files hold in another form (experts, most "
            "often); take regmean, which reads each model by itself"
        )


def _check_in_place(plan: Plan) -> None:
    for tensor in plan.tensors:
        for source in tensor.sources:
            if not tensor.copy and source.tensor != tensor.name:
                raise MergeError(
                    f"tensor {tensor.name!r}: it is made from {source.tensor!r} of {source.model.reference}; "
                    f"{plan.method.name} runs merged layers on each other's outputs, which takes models of one depth, "
                    "layer by layer; take regmean"
                )
