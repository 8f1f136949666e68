"""A recipe for other people's eyes: it names models as the hub does, or by the last part of their path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weightsmith.files.find_path import is_file
from weightsmith.files.inputs.yaml_file import dump_yaml
from weightsmith.model_card.describe_inputs import model_titles
from weightsmith.models.model import Model
from weightsmith.recipe.documents import stage_in
from weightsmith.recipe.model_reference import short_reference
from weightsmith.recipe.recipe import Recipe

_MODELS = ("model", "base_model", "path", "lora", "tokenizer_source", "source")
_FILES = ("text", "chat_template", "include")
_REVISION = re.compile(r"@[\w./-]+\Z")


def public_recipe(recipe: Recipe, models: Mapping[str, Model]) -> str:
    """The recipe and its stages as YAML, without comments. `models`: those of the plan, and of its stages, by the
    reference that the recipe has for them."""
    titles = model_titles(models)
    for reference, model in models.items():  # the revision that was asked for stays
        revision = _REVISION.search(reference)
        if revision and len(model.files) == 1 and "/" in titles[reference] and not Path(reference).exists():
            titles[reference] += revision[0]
    parts = [recipe, *(recipe.stages[name] for name in recipe.used_stages)]
    stages = set(recipe.stages)
    return "---\n".join(dump_yaml(_shown(part.file.tree, titles, stages)) for part in parts)


def _shown(node: Any, titles: Mapping[str, str], stages: set[str], key: str = "") -> Any:
    if isinstance(node, Mapping):
        try:
            known = titles.get(short_reference(node)) if "model" in node else None
        except ValueError:
            known = None
        if known and key in _MODELS:
            return known
        return {name: _shown(value, titles, stages, str(name)) for name, value in node.items()}
    if isinstance(node, list):
        return [_shown(value, titles, stages, key) for value in node]
    if not isinstance(node, str):
        return node
    if key in _MODELS:
        return _model(node, titles, stages)
    is_path = (key in _FILES and "/" in node) or (Path(node).is_absolute() and is_file(Path(node)))
    return Path(node).name if is_path and "\n" not in node else node


def _model(text: str, titles: Mapping[str, str], stages: set[str]) -> str:
    try:
        reference = short_reference(text)
    except ValueError:
        reference = text
    if reference in titles:
        return titles[reference]
    stage = stage_in(reference, dict.fromkeys(stages))
    if stage or text in ("base", "union"):
        return "+".join([stage or text, *(Path(part).name for part in reference.split("+")[1:])])
    return "+".join(Path(part).name for part in reference.split("+"))
