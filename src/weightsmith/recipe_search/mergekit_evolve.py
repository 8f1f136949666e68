"""mergekit-evolve's configuration (`genome:` and `tasks:`, mergekit/evo in https://github.com/arcee-ai/mergekit) as a
search file.

Its genome is one weight, and one density where the method has it, for each model, each group of `layer_granularity`
layers, and each of the `filters` and the rest. mergekit's CMA-ES is unbounded and takes absolute values; here weights
are searched in [0, 1] ([-1, 1] with `allow_negative_weights`), densities in (0, 1].
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, field_validator

from weightsmith.files.inputs.yaml_file import StrictModel, YamlFile

_PARAMETERS = {
    "linear": ("weight",),
    "task_arithmetic": ("weight",),
    "ties": ("weight", "density"),
    "dare_ties": ("weight", "density"),
    "slerp": ("t",),
}
_NORMALIZED = ("ties", "dare_ties", "linear")


class Genome(StrictModel):
    """mergekit's ModelGenomeDefinition."""

    models: list[str] = Field(min_length=1)
    merge_method: Literal["linear", "task_arithmetic", "ties", "dare_ties", "slerp"]
    base_model: str | None = None
    tokenizer_source: str | None = None
    layer_granularity: int = 0
    normalize: bool | None = None
    allow_negative_weights: bool = False
    filters: list[str] | None = None
    smooth: bool = False


class EvolveTask(StrictModel):
    name: str
    weight: float = Field(default=1.0, gt=0)
    metric: str = "acc,none"


class EvolveFile(StrictModel):
    """mergekit's EvolMergeConfiguration. `shuffle` and `random_init` are accepted: questions are always drawn at random
    here, and the search begins with recipes that are known to be good."""

    genome: Genome
    tasks: list[EvolveTask] = Field(min_length=1)
    limit: int | None = Field(default=None, ge=2)
    num_fewshot: int | None = Field(default=None, ge=0)
    shuffle: bool = False
    random_init: bool = False
    apply_chat_template: bool = True
    fewshot_as_multiturn: bool = True

    @field_validator("tasks", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return (
            [{"name": task} if isinstance(task, str) else task for task in value] if isinstance(value, list) else value
        )


def is_evolve(file: YamlFile) -> bool:
    return "genome" in file.tree


def search_tree(file: YamlFile, layers: Callable[[str], int]) -> dict[str, Any]:
    """The same search in our form; `layers`: how many a model has. Raises RecipeError."""
    config = file.validate(EvolveFile)
    genome = config.genome
    if genome.merge_method == "slerp" and (len(genome.models) != 2 or genome.smooth or genome.filters):
        raise file.error(["genome", "models"], "slerp is searched for two models, without `smooth` and `filters`")
    if genome.merge_method not in ("linear", "slerp") and not genome.base_model:
        raise file.error(["genome"], f"{genome.merge_method} needs a base_model")
    depth = layers(genome.models[0])
    step = genome.layer_granularity if genome.layer_granularity > 0 else depth
    if depth % step:
        raise file.error(
            ["genome", "layer_granularity"], f"{genome.models[0]} has {depth} layers, which is not a multiple of {step}"
        )
    objectives = []
    for task in config.tasks:
        metric, _, chosen = task.metric.partition(",")
        entry = {"task": task.name, "metric": metric, "filter": chosen or None, "weight": task.weight}
        objectives.append(entry | {"fewshot": config.num_fewshot, "limit": config.limit})
    return {
        "recipe": _recipe(genome, depth, step),
        "objective": objectives,
        "sampler": "cmaes",
        "chat": config.apply_chat_template,
    }


def _recipe(genome: Genome, depth: int, step: int) -> dict[str, Any]:
    groups = depth // step
    normalize = genome.normalize if genome.normalize is not None else genome.merge_method in _NORMALIZED
    recipe: dict[str, Any] = {"merge_method": genome.merge_method, "dtype": "bfloat16"}
    if genome.merge_method == "slerp":
        recipe["base_model"] = genome.models[0]
        recipe["slices"] = [
            {
                "sources": [{"model": model, "layer_range": [k * step, (k + 1) * step]} for model in genome.models],
                "parameters": {"t": {"uniform": [0.0, 1.0]}},
            }
            for k in range(groups)
        ]
    elif genome.smooth:
        recipe["models"] = [{"model": model, "parameters": _parameters(genome, groups)} for model in genome.models]
    else:
        recipe["slices"] = [{"sources": _sources(genome, k * step, (k + 1) * step)} for k in range(groups)]
    if genome.merge_method != "slerp":
        recipe["parameters"] = {"normalize": normalize}
    if genome.base_model:
        recipe["base_model"] = genome.base_model
    if genome.tokenizer_source:
        recipe["tokenizer_source"] = genome.tokenizer_source
    return recipe


def _sources(genome: Genome, first: int, last: int) -> list[dict[str, Any]]:
    sources = [
        {"model": model, "layer_range": [first, last], "parameters": _parameters(genome, 1)} for model in genome.models
    ]
    if genome.base_model and genome.base_model not in genome.models:
        sources.append({"model": genome.base_model, "layer_range": [first, last]})
    return sources


def _parameters(genome: Genome, groups: int) -> dict[str, Any]:
    """A space for each parameter, each filter, and, as a gradient, each of `groups` of layers."""
    parameters: dict[str, Any] = {}
    for name in _PARAMETERS[genome.merge_method]:
        low = -1.0 if name == "weight" and genome.allow_negative_weights else 0.001 if name == "density" else 0.0
        values = [{"uniform": [low, 1.0]} for _ in range(groups)]
        gradient: Any = values if groups > 1 else values[0]
        filters = [*(genome.filters or []), None]
        parameters[name] = (
            gradient if len(filters) == 1 else [{"filter": part, "value": copy.deepcopy(gradient)} for part in filters]
        )
    return parameters
