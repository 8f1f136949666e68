"""Recipes from anywhere: every text is a recipe or one RecipeError."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import examples
from weightsmith.errors import RecipeError
from weightsmith.recipe.recipe import load_recipe

KEYS = [
    "merge_method",
    "models",
    "model",
    "parameters",
    "weight",
    "density",
    "slices",
    "sources",
    "layer_range",
    "base_model",
    "dtype",
    "filter",
    "value",
]
LEAVES = st.sampled_from(
    ["ties", "linear", "slerp", "x", 0, 1, -1, 0.5, None, True, [0, 1], [], {}, "float32", "null", float("nan"), 10**30]
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)
ONE_FILE = examples(300, files=True)


def load(path: Path) -> None:
    try:
        load_recipe(path)
    except RecipeError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)


@ONE_FILE
@given(st.dictionaries(st.sampled_from(KEYS), TREES, max_size=6))
def test_any_tree(tmp_path: Path, tree: dict) -> None:
    import yaml

    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(tree))
    load(tmp_path / "recipe.yml")


@ONE_FILE
@given(st.text(alphabet="abc:-[]{}#&*!|>'\"%@`? \n\t\x00é,0.", max_size=60))
def test_any_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yml").write_text(text)
    load(tmp_path / "recipe.yml")
