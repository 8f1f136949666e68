"""A first recipe for given models, with what may be set in comments."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import indent

from weightsmith.errors import RecipeError
from weightsmith.files.inputs.yaml_file import dump_yaml
from weightsmith.methods.describe import example_recipe
from weightsmith.methods.method import REQUIRED, Method, Parameter
from weightsmith.methods.task_vectors.task_vector_method import TaskVectorMethod
from weightsmith.models.find_model import numbered, short_name

_WIDTH = 110
_ABOUT_WEIGHTS = """\
# Weights: 1 for each adds all that each has learned, which suits skills that have nothing to do with each other. As
# they stand here, the result is their mean, which suits those that overlap. `weightsmith inspect --stats` says which
# they are, `weightsmith search` finds better ones."""


def draft_recipe(method: Method, models: Sequence[str], base: str | None) -> str:
    """YAML: the recipe, and a comment for each parameter that has a default. Raises RecipeError where the method takes
    another number of models, or needs a base."""
    count = len(models) + (base is not None and method.needs_base)
    least, most = method.inputs
    if count < least or (most is not None and count > most):
        raise RecipeError(f"{method.name} merges {method.input_count}, and these are {count}")
    if method.needs_base and base is None:
        raise RecipeError(f"{method.name} needs a base model: the one that the others were trained from")
    plain = [_scalar(model) for model in models]
    text = example_recipe(method, base=_scalar(base) if base else None, models=plain)
    if isinstance(method, TaskVectorMethod):
        text += f"\n{_ABOUT_WEIGHTS}"
    optional = [parameter for parameter in method.parameters if parameter.default is not REQUIRED]
    if optional:
        notes = "\n".join(_note(parameter) for parameter in optional)
        text += f"\n# More that can be set, under a model's `parameters` or under the recipe's own:\n{notes}"
    return f"{text}\n"


def draft_pipeline(
    recipe: str, types: Sequence[str], questions: Sequence[str], base: str | None, models: Sequence[str]
) -> str:
    """YAML: a pipeline that merges as `recipe` says, exports, compares what it made with the base and the fine-tunes
    `models`, and writes a report."""
    parts = [f"merge:\n{indent(recipe.rstrip(), '  ')}"]
    if types:
        parts.append(f"export: [{', '.join(types)}]")
    if questions:
        asked = [("base", base)] if base else []
        asked += [(short_name(model).rpartition("+")[2], model) for model in models]
        asked += [("merged", "$merged"), *((f"merged {name.upper()}", f"${name}") for name in types)]
        labels = numbered([label for label, _ in asked])  # a fine-tune may be called `merged`, too
        named = dict(zip(labels, (model for _, model in asked), strict=True))
        stage = dump_yaml({"models": named, "questions": list(questions)})
        parts.append(f"evaluate:\n{indent(stage.rstrip(), '  ')}")
    return "\n".join([*parts, "report: {}"]) + "\n"


def _note(parameter: Parameter) -> str:
    default = parameter.default
    shown = "" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
    line = f"#   {parameter.name}: {shown or '...'}"
    doc = " ".join(parameter.doc.split())
    room = _WIDTH - 28
    return f"{line:<26}# {doc if len(doc) <= room else doc[: room - 1] + '…'}"


def _scalar(text: str) -> str:
    """As a YAML value on one line."""
    return dump_yaml([text]).removeprefix("- ").rstrip("\n")
