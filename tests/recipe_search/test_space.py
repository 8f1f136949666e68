"""Spaces in a recipe: found, named, and refused where they cannot be meant."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import examples
from weightsmith.errors import RecipeError
from weightsmith.files.inputs.yaml_file import dump_yaml, parse_yaml
from weightsmith.recipe.recipe import load_recipe
from weightsmith.recipe_search.candidate_recipe import candidate
from weightsmith.recipe_search.default_recipes import default_recipes
from weightsmith.recipe_search.report.final_scores import models_of
from weightsmith.recipe_search.search import middle
from weightsmith.recipe_search.space import Space, find_spaces

TEXT = """\
merge_method: {choice: [ties, task_arithmetic, linear]}
base_model: base
models:
  - model: some/ft1
    parameters: {weight: {uniform: [0.1, 1.2]}, density: {uniform: [0.2, 1.0]}}
  - model: ft2
    parameters:
      weight: [{uniform: [0, 1]}, 0.5, {loguniform: [0.01, 1], }]
      density: [{filter: mlp, value: {uniform: [0.1, 0.9], step: 0.2}}, {value: 0.5}]
parameters: {normalize: {choice: [true, false]}, lambda: 1.0}
"""


def spaces_of(text: str) -> list[Space]:
    return find_spaces(parse_yaml(Path("s.yml"), text))


def test_names_and_places() -> None:
    candidates = {space.name: space for space in spaces_of(TEXT)}
    assert list(candidates) == [
        "merge_method",
        "ft1.weight",
        "ft1.density",
        "ft2.weight[0]",
        "ft2.weight[2]",
        "ft2.density[mlp]",
        "normalize",
    ]
    assert candidates["ft1.density"].step == 0.001
    assert candidates["ft2.density[mlp]"].grid() == [0.1, 0.3, 0.5, 0.7, 0.9]
    assert candidates["normalize"].grid() == ["true", "false"]
    assert candidates["ft2.weight[2]"].grid() == pytest.approx([0.01, 0.0316, 0.1, 0.316, 1], rel=1e-2)


@pytest.mark.parametrize("method", ["ties", "task_arithmetic", "linear"])
def test_a_candidate_is_a_recipe(method: str) -> None:
    """Of a method that is searched for, what it does not know is left out."""
    file = parse_yaml(Path("s.yml"), TEXT)
    spaces = find_spaces(file)
    tree = candidate(file.tree, middle(spaces, method), spaces)
    loaded = load_recipe(parse_yaml(Path("s.yml"), dump_yaml(tree)))
    assert loaded.schema.merge_method == method
    first = loaded.schema.models[0].parameters if loaded.schema.models else {}
    assert ("density" in first) == (method == "ties")
    assert (loaded.schema.base_model is None) == (method == "linear")
    assert ("lambda" in loaded.schema.parameters) == (method != "linear")


def test_defaults_lie_in_the_spaces() -> None:
    file = parse_yaml(Path("s.yml"), TEXT)
    spaces = find_spaces(file)
    candidates = default_recipes(spaces, file.tree, ["ties", "task_arithmetic"])
    assert [default.name for default in candidates][:2] == [
        "ties, weight 0.5, density 0.5",
        "ties, weight 1, density 0.5",
    ]
    assert candidates[0].values["ft1.weight"] == 0.5 and candidates[0].values["ft1.density"] == 0.5
    assert candidates[0].values["normalize"] == "true" and "ft1.density" not in candidates[-1].values
    narrow = spaces_of(TEXT.replace("[0.2, 1.0]", "[0.7, 0.9]"))
    assert default_recipes(narrow, file.tree, ["ties"])[0].values["ft1.density"] == 0.7


def test_what_nobody_publishes_is_the_method_s_own_default() -> None:
    text = """
recipe:
  merge_method: swudi
  base_model: base
  models: [{model: a}, {model: b}]
  parameters: {t: {loguniform: [30, 3000]}, start: {choice: [sum, mean]}, rank_ratio: {uniform: [0.5, 1.0]}}
objective: [{perplexity: text.txt}]
trials: 3
"""
    values = default_recipes(spaces_of(text), parse_yaml(Path("s.yml"), text).tree, ["swudi"])[0].values
    assert values == {"recipe.t": 300.0, "recipe.start": "mean", "recipe.rank_ratio": 0.85}


BAD = [
    ("{uniform: [0.1, 1.2]}", "{uniform: [1.2, 0.1]}", "inverted space"),
    ("{uniform: [0.1, 1.2]}", "{uniform: [0.5, 0.5]}", "empty space"),
    ("{uniform: [0.1, 1.2]}", "{uniform: [0.1]}", "two numbers"),
    ("{uniform: [0.1, 1.2]}", "{uniform: [a, b]}", "two numbers"),
    ("{uniform: [0.1, 1.2]}", "{uniform: [0.1, .inf]}", "two numbers"),
    ("{uniform: [0.1, 1.2]}", "{uniform: [0.1, 1.2], step: 3}", "step"),
    ("{uniform: [0.1, 1.2]}", "{uniform: [0.1, 1.2], steps: 3}", "'steps'"),
    ("{loguniform: [0.01, 1], }", "{loguniform: [0, 1]}", "above 0"),
    ("{choice: [true, false]}", "{choice: []}", "empty space"),
    ("{choice: [true, false]}", "{choice: [true, true]}", "the same value twice"),
    ("{choice: [true, false]}", "{uniform: [0, 1]}", "true or false"),
    ("base_model: base", "base_model: {uniform: [0, 1]}", "not a number"),
]


@pytest.mark.parametrize("old,new,message", BAD)
def test_bad_spaces(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(RecipeError, match=r"s\.yml:\d+: .*" + message):
        spaces_of(TEXT.replace(old, new))


@examples(100)
@given(
    low=st.floats(-5, 5), width=st.floats(0.01, 5), wanted=st.floats(-20, 20), step=st.none() | st.floats(0.001, 0.01)
)
def test_the_nearest_value_is_in_the_space(low: float, width: float, wanted: float, step: float | None) -> None:
    space = Space(("x",), "x", "uniform", low, low + width, step)
    candidates = space.stored(wanted)
    assert low - 1e-8 <= candidates <= low + width + 1e-8
    if low <= wanted <= low + width:
        assert math.isclose(candidates, wanted, abs_tol=(step or 0) * 1.01 + 1e-8)


def test_any_value_of_a_space_comes_back(tmp_path: Path) -> None:
    optuna: Any = pytest.importorskip("optuna")
    study = optuna.create_study()
    for space in spaces_of(TEXT):
        for value in space.grid():
            study.enqueue_trial({space.name: value})
            assert space.stored(space.ask(study.ask())) == pytest.approx(value) or value in space.labels


def test_models_of_one_name_are_told_apart() -> None:
    recipe = {
        "base_model": "x/base",
        "models": [{"model": "x/base"}, {"model": "a/last"}, {"model": "b/last"}, {"model": "winner"}],
    }
    assert models_of(recipe) == [
        ("base", "x/base"),
        ("last (1)", "a/last"),
        ("last (2)", "b/last"),
        ("winner (2)", "winner"),
    ]
