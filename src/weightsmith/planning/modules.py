"""The parts of a model that a recipe merges each in its own way: mergekit's `modules`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from weightsmith.files.suggestions import nearest
from weightsmith.models.model import Model
from weightsmith.models.parts.stacks import Stack, Stacks
from weightsmith.planning.slices import whole_models
from weightsmith.recipe.recipe import Recipe, parts_of
from weightsmith.recipe.recipe_schema import Slice

# What mergekit calls the parts of its architectures, by the names of their tensors; the first that fits counts.
_MULTIMODAL = {
    "multi_modal_projector": re.compile(
        r"(^|\.)(multi_modal_projector|mm_projector|connector|aligner|merger)[._]|"
        r"(^|\.)\w*(merger|projector)\w*\."
    ),
    "vision_tower": re.compile(r"(^|\.)(vision\w*|visual|image\w*|vit)\."),
    "audio_tower": re.compile(r"(^|\.)(audio\w*|speech\w*)\."),
}
# Of models with an encoder and a decoder: a recipe that names none of these means the whole as the text decoder.
_SEQUENCE = {
    "encoder": re.compile(r"(^|\.)encoder\."),
    "decoder": re.compile(r"(^|\.)decoder\."),
    "shared": re.compile(r"^(model\.)?(shared|lm_head|proj_out)\."),
}
_TEXT, _ALL = "text_decoder", "default"
_SYNONYMS = {"vision_model": "vision_tower", "language_model": _TEXT}
_ROLES = {*_MULTIMODAL, *_SEQUENCE, _TEXT, _ALL, *_SYNONYMS}


@dataclass(frozen=True)
class ModulePlan:
    """A part of the model: `keys` lead to it in the recipe, `names` are its tensors in the model that gives the output
    its shape; `stack`: the layers that `slices` cut, None where whole models are merged."""

    keys: list[str | int]
    slices: list[Slice]
    names: frozenset[str]
    parameters: dict[str, Any] = field(default_factory=dict)
    stack: Stack | None = None


def resolve_modules(
    recipe: Recipe, home: Model, stacks: Stacks, layers: Mapping[str, int]
) -> tuple[list[ModulePlan], list[str]]:
    """(the parts, the tensors of `home` that are in none of them). `layers`: reference -> number of layers. Raises
    RecipeError for a name that no tensor belongs to."""
    schema = recipe.schema
    every = frozenset(home.checkpoint.tensors)
    owners = _owners(recipe, every)
    plans = []
    for keys, part in parts_of(schema):
        name = str(keys[1]) if keys else None
        names = every if name is None else frozenset(n for n, owner in owners.items() if owner == name)
        if not names:
            raise recipe.file.error(
                keys, f"no tensor of {home.reference} is in the module {name!r}{nearest(str(name), _known(every))}"
            )
        slices = part.slices or [whole_models(schema.base_model, part.models or [], layers)]
        stack = _stack_of(recipe, keys, home, stacks, names) if part.slices else None
        plans.append(ModulePlan(keys, slices, names, part.parameters if keys else {}, stack))
    return plans, sorted(every - owners.keys()) if schema.modules else []


def _owners(recipe: Recipe, names: Iterable[str]) -> dict[str, str]:
    """Tensor -> the module of the recipe that it is in."""
    modules = list(recipe.schema.modules or {})
    by_role = {_SYNONYMS.get(module, module): module for module in modules}
    prefixes = sorted(set(modules) - _ROLES, key=len, reverse=True)
    owners = {}
    for name in names:
        prefix = next((p for p in prefixes if name.startswith(p if p.endswith(".") else f"{p}.")), None)
        role = by_role.get(_role(name, by_role)) or (_ALL if _ALL in modules else None)
        if owner := prefix or role:
            owners[name] = owner
    return owners


def _role(name: str, wanted: Iterable[str]) -> str:
    """What mergekit would call the part that a tensor is in, of a recipe that speaks of the parts `wanted`."""
    roles = _MULTIMODAL | _SEQUENCE if _SEQUENCE.keys() & set(wanted) else _MULTIMODAL
    return next((role for role, pattern in roles.items() if pattern.search(name)), _TEXT)


def _known(names: Iterable[str]) -> set[str]:
    roles = {_role(name, wanted) for name in names for wanted in ((), _SEQUENCE)}
    return roles | {name.partition(".")[0] for name in names} | {_ALL}


def _stack_of(recipe: Recipe, keys: list[str | int], home: Model, stacks: Stacks, names: frozenset[str]) -> Stack:
    """The stack of layers that `slices` cut. Raises RecipeError where it is not clear which one."""
    inside = {
        prefix: stack for prefix, stack in stacks.stacks.items() if any(name.startswith(prefix) for name in names)
    }
    stack = Stacks(inside).main
    if stack:
        return stack
    found = ", ".join(f"{stack.prefix}* ({stack.depth} layers)" for stack in inside.values())
    raise recipe.file.error(
        [*keys, "slices"],
        f"{home.reference} has {'several stacks of layers: ' + found if found else 'no layers'}; slices take the "
        "layers of one stack. Use `models`" + ("" if keys else ", or `modules` with slices for each part"),
    )
