"""Weights for each layer from the Fisher information of the base model: less of a task vector where the model's
predictions are sensitive to it."""

from __future__ import annotations

import copy
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.engine.stages.plan_stages import open_plan
from weightsmith.engine.tensor_scan import Buffers, TensorScan
from weightsmith.engine.text_statistics.know_text import TextReading
from weightsmith.engine.workers.on_threads import Stop, on_threads
from weightsmith.errors import RecipeError
from weightsmith.machine import available_cores
from weightsmith.methods.from_text.text_parameters import RANDOM
from weightsmith.planning.plan import Plan, TensorPlan
from weightsmith.progress import OnProgress, no_progress
from weightsmith.recipe.recipe import Recipe, load_recipe

_DIGITS = 4
_LARGEST = 700.0  # whose exponential is a number


def weigh(
    recipe: Recipe | Path | str | Mapping[str, Any],
    *,
    text: Path | str = RANDOM,
    samples: int = 8,
    context: int = 64,
    strength: float = 1.0,
    threads: int | None = None,
    seed: int = 0,
    on_progress: OnProgress = no_progress,
) -> Recipe:
    """The recipe with weights of their own for each layer of each fine-tune: its weight times 2 / (1 + exp(`strength`
    z)), where z says how many standard deviations the layer's log(F |task vector|^2) lies above the mean of all layers,
    and F is the mean Fisher information of the base model's layer on `text`, a file, or tokens drawn at `random`.

    So it is proposed in FIM-Merging (arXiv:2603.21705), for merges of a model that reasons at length with its base;
    its authors' code is not published: score, sample and form (logarithm, sigmoid) are theirs, the scale is ours, by
    which the mean layer keeps the weight it had. Other tools read the result too: weights are gradients over the
    layers, for tensors with the layers' names; embeddings, the output matrix and what else is in no layer keep the
    weight they had. Weights are then no longer those of an average: `normalize` and sums of weights act layer by layer.

    Raises RecipeError where the method has no weights or no base, or for slices; MergeError where the base cannot read
    the text.

    >>> of_layers, elsewhere = ws.weigh("ties.yml").schema.models[0].parameters["weight"]
    >>> of_layers["filter"], len(of_layers["value"]), elsewhere["value"]
    ('model.layers.', 2, 1.0)
    """
    recipe = load_recipe(recipe)
    _check(recipe)
    threads = threads or available_cores()
    plan = open_plan(recipe)
    reading = TextReading(plan, threads, seed, samples, context, on_progress)
    base = plan.models[str(recipe.schema.base_model)]
    prefix, sensitivity = reading.layer_fisher(base, str(text))
    layers = [[t for t in plan.tensors if t.name.startswith(f"{prefix}{n}.")] for n in range(len(sensitivity))]
    lengths, inside = _squared_lengths(plan, layers, threads), _filter(plan, prefix)
    tree = copy.deepcopy(recipe.file.tree)
    for entry, model in zip(tree["models"], recipe.schema.models or [], strict=True):
        reference = model.model
        if reference == recipe.schema.base_model:
            continue
        before = [_weight(recipe, tensors, reference) for tensors in layers]
        factors = layer_factors(
            [f * length for f, length in zip(sensitivity, lengths[reference], strict=True)], strength
        )
        weights = [float(f"{w * factor:.{_DIGITS}g}") for w, factor in zip(before, factors, strict=True)]
        own = dict(entry.get("parameters") or {})
        elsewhere = _by_filter(own.get("weight", (tree.get("parameters") or {}).get("weight")))
        by_filter = [part for part in elsewhere if part.get("filter") != inside]  # of one that was weighed before
        entry["parameters"] = own | {"weight": [{"filter": inside, "value": weights}, *by_filter]}
    return Recipe.from_dict(tree, path=recipe.file.path)


def layer_factors(scores: Sequence[float], strength: float) -> list[float]:
    """2 / (1 + exp(strength z)) of each layer, where z is the standardized logarithm of its score; a layer without a
    score, which nothing changed, has 1.

    >>> [round(factor, 3) for factor in layer_factors([1.0, 10.0, 100.0], 1.0)]
    [1.546, 1.0, 0.454]
    """
    known = [math.log(score) for score in scores if score > 0]
    mean, spread = float(np.mean(known or [0.0])), float(np.std(known or [0.0]))
    if spread < 1e-9:
        return [1.0] * len(scores)
    logs = [math.log(score) if score > 0 else mean for score in scores]
    return [2 / (1 + math.exp(min(strength * (log - mean) / spread, _LARGEST))) for log in logs]


def _filter(plan: Plan, prefix: str) -> str:
    """What a recipe calls the tensors whose names begin with `prefix`; where it is a part of other names, a pattern,
    which mergekit does not read."""
    plain = all(tensor.name.startswith(prefix) for tensor in plan.tensors if prefix in tensor.name)
    return prefix if plain else f"re:^{re.escape(prefix)}"


def _by_filter(setting: Any) -> list[dict[str, Any]]:
    """A parameter's setting as a list of values with filters."""
    if isinstance(setting, list) and all(isinstance(part, dict) for part in setting):
        return setting
    if isinstance(setting, dict):
        return [setting]
    return [] if setting is None else [{"value": setting}]


def _check(recipe: Recipe) -> None:
    method, schema = recipe.method, recipe.schema
    if not schema.base_model or not any(p.name == "weight" for p in method.parameters):
        raise recipe.file.error(
            ["merge_method"],
            f"{method.name} has no weights on task vectors of a base model; take task_arithmetic, ties or another one "
            "that has",
        )
    if not schema.models:
        raise recipe.file.error(
            ["slices" if schema.slices else "modules"],
            "weights for each layer are written for recipes with `models`; a recipe with slices has weights of its own "
            "for each slice",
        )


def _weight(recipe: Recipe, tensors: Sequence[TensorPlan], reference: str) -> float:
    """Of one model in one layer."""
    found = {
        values["weight"]
        for tensor in tensors
        for model, values in zip(tensor.settings.models, tensor.settings.per_input, strict=True)
        if model == reference and "weight" in values
    }
    if len(found) != 1:
        raise RecipeError(
            f"{recipe.line_of(reference)}: {reference} has weights that differ within a layer "
            f"({', '.join(f'{w:g}' for w in sorted(found))}); give it one number, or a gradient over the layers",
            path=recipe.file.path,
        )
    return float(found.pop())


def _squared_lengths(plan: Plan, layers: Sequence[Sequence[TensorPlan]], threads: int) -> dict[str, list[float]]:
    """Model -> the squared length of its task vector in each layer."""
    buffers = Buffers()

    def work(place: tuple[int, TensorPlan], stop: Stop) -> list[tuple[str, int, float]]:
        layer, tensor = place
        scan = TensorScan(tensor, buffers, stop, row_wise=False, seed=0)
        settings, squares = tensor.settings, [0.0] * len(tensor.sources)
        for block in scan.blocks():
            values = block.floats()
            for number in settings.others:
                squares[number] += float(
                    np.square(values[number] - values[settings.base_index], dtype=np.float64).sum()
                )
        return [(settings.models[number], layer, squares[number]) for number in settings.others]

    addends: dict[tuple[str, int], list[float]] = defaultdict(list)
    tensors = [(n, tensor) for n, of_layer in enumerate(layers) for tensor in of_layer if not tensor.copy]
    for found in on_threads(work, tensors, threads, tick=lambda: None):
        for model, layer, square in found:
            addends[model, layer].append(square)
    models = {model for model, _ in addends}
    return {model: [math.fsum(addends[model, n]) for n in range(len(layers))] for model in models}
