"""The texts that a recipe names for methods that read some: they are there, and the models can read them."""

from __future__ import annotations

from weightsmith.files.find_path import find_path
from weightsmith.methods.from_text.text_parameters import RANDOM, TEXT
from weightsmith.models.model import Model
from weightsmith.recipe.recipe import Recipe, parameter_places


def check_texts(recipe: Recipe, home: Model) -> None:
    """Raises RecipeError."""
    if not recipe.method.reads_text:
        return
    if home.is_state_dict:
        raise recipe.file.error(
            ["merge_method"],
            f"{recipe.method.name} has each model read a text, and {home.reference} is a file of weights without a "
            "configuration or a tokenizer; name the models' folders, or take a method without text",
        )
    for keys, parameters, _ in parameter_places(recipe.schema):
        text = parameters.get(TEXT.name)
        if text is None or text == RANDOM:
            continue
        path = find_path(text, recipe.file.path.parent)
        if path is None or not path.is_file():
            raise recipe.file.error(
                [*keys, TEXT.name],
                f"{text}: there is no such file, here or beside the recipe; `text` is a file of text (UTF-8) of the "
                f"kind that the model is good at, or `{RANDOM}`",
            )
