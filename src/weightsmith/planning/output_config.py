"""config.json of a merged model: its layers in their new order, and held against the class that it names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from weightsmith.errors import PlanError
from weightsmith.models.configs.layer_settings import is_per_layer, part_of, reordered, with_part
from weightsmith.models.configs.transformers_class import ClassCheck, check_class
from weightsmith.models.model import Model
from weightsmith.models.naming.translate_config import published
from weightsmith.models.parts.stacks import Stack
from weightsmith.planning.plan import TensorPlan
from weightsmith.recipe.recipe import Recipe, parts_of

_SHOWN = 3
_NOT_COMPARED = ("dtype", "vocab_size")  # of two configurations whose classes have the same tensors, up to rows


def restacked_config(
    recipe: Recipe, home: Model, config: dict[str, Any], stack: Stack, taken: Sequence[int]
) -> dict[str, Any]:
    """`config`, that of `home`, with the layers `taken` in place of those of `stack`. Raises PlanError where
    config.json cannot say it."""
    if list(taken) == list(range(stack.depth)):
        return config
    part = part_of(config, stack.section)
    listed = [key for key, value in part.items() if "layer" in key and is_per_layer(key, value, stack.depth)]
    if not stack.keys and not listed:
        raise PlanError(
            f"{recipe.file.path}: no key of {home.reference}'s config.json counts the {stack.depth} layers of "
            f"{stack.prefix}*, so another number of them cannot be written; use all layers in their order"
        )
    counted = {keys[-1]: len(taken) for keys in stack.keys}
    settings, problem = reordered(part, stack.depth, taken)
    if problem:
        raise _refusal(recipe, home, problem)
    return with_part(config, stack.section, {**settings, **counted})


def checked_config(
    recipe: Recipe, home: Model, config: dict[str, Any], tensors: Sequence[TensorPlan], stack: Stack | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """`config`, with what its class derives layer by layer spelled out where layers are in another order, and warnings.
    It is built where it is not `home`'s own configuration with `home`'s own tensors. Raises PlanError where the class
    would not have exactly the tensors that are written."""
    shapes = {tensor.name: tensor.info.shape for tensor in tensors}
    own = {name: info.shape for name, info in home.checkpoint.tensors.items()}
    before = published(home.config, list(home.checkpoint.tensors.values()))
    compared = {*before, *config} - set(_NOT_COMPARED)
    same = all(_text_of(before.get(key)) == _text_of(config.get(key)) for key in compared)
    taken = None
    if stack and not same:
        taken = [_origin(tensors, stack, number) for number in range(_count(tensors, stack))]
    if same and shapes.keys() == own.keys() and taken is None:
        return config, ()
    section = stack.section if stack else ()
    depth = stack.depth if stack else 0
    check = check_class(config, shapes, before=before, section=section, taken=taken, depth=depth)
    if check.problem:
        raise _refusal(recipe, home, check.problem)
    if problem := _other_tensors(check):
        architecture = (config.get("architectures") or ["its class"])[0]
        raise PlanError(
            f"{recipe.line_of(home.reference)}: {home.reference}: {architecture} would not load the merged model: "
            f"{problem}"
        )
    if check.not_checked:
        return config, (
            f"config.json is not {home.reference}'s own, and was not held against its class: {check.not_checked}; load "
            "the merged model once to see that it fits",
        )
    return (with_part(config, section, check.lists) if check.lists else config), ()


def _text_of(value: Any) -> str:
    """Equal where values are, NaN among them."""
    return json.dumps(value, sort_keys=True, default=str)


def _count(tensors: Sequence[TensorPlan], stack: Stack) -> int:
    numbers = {_number(tensor.name, stack) for tensor in tensors} - {None}
    return len(numbers)


def _origin(tensors: Sequence[TensorPlan], stack: Stack, number: int) -> int:
    """The layer that output layer `number` comes from."""
    prefix = f"{stack.prefix}{stack.numbers[0] + number}."
    tensor = next(tensor for tensor in tensors if tensor.name.startswith(prefix))
    return (_number(tensor.sources[0].tensor, stack) or 0) - stack.numbers[0]


def _number(name: str, stack: Stack) -> int | None:
    rest = name.removeprefix(stack.prefix)
    return int(rest.partition(".")[0]) if rest != name else None


def _other_tensors(check: ClassCheck) -> str | None:
    for names, what in (
        (check.missing, "the class has and the merged model would not have"),
        (check.unexpected, "the class does not have"),
        (check.mismatched, "have another shape in the class"),
    ):
        if names:
            shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
            return f"{len(names)} tensors {what}: {shown}"
    return None


def _refusal(recipe: Recipe, home: Model, problem: str) -> PlanError:
    architecture = (home.config.get("architectures") or ["its class"])[0]
    if not any(part.slices for _, part in parts_of(recipe.schema)):
        return PlanError(
            f"{recipe.line_of(home.reference)}: {home.reference}: {architecture} could not load the merged model: "
            f"{problem}"
        )
    return PlanError(
        f"{recipe.file.path}: {architecture} cannot be described with these layers: {problem}. Take layers in an order "
        "that its config.json can say, such as whole periods"
    )
