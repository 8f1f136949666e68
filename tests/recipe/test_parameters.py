"""Values of parameters: scalars, gradients over layers, filters by tensor name; and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from weightsmith.errors import RecipeError
from weightsmith.files.inputs.yaml_file import parse_yaml
from weightsmith.methods.method import REQUIRED, Parameter
from weightsmith.methods.registry import METHODS
from weightsmith.recipe.parameters import check_parameters, resolve
from weightsmith.recipe.recipe import load_recipe

WEIGHT = Parameter("weight", float, "input", "factor on this model")
NORMALIZE = Parameter("normalize", bool, "shared", "divide by the sum of the weights", default=True)
Q_PROJ, MLP = "model.layers.1.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"


def weight(setting: Any, tensor: str = MLP, t: float = 0.0) -> Any:
    return resolve(WEIGHT, [{"weight": setting}], tensor, t)


def test_a_scalar_is_itself() -> None:
    assert weight(0.5) == 0.5
    assert weight("0.5") == 0.5 and weight(1) == 1.0


@pytest.mark.parametrize("t,expected", [(0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.75, 0.75), (1.0, 0.5)])
def test_a_gradient_is_interpolated_over_the_layers(t: float, expected: float) -> None:
    assert weight([0, 1, 0.5], t=t) == expected


@pytest.mark.parametrize("t,expected", [(0.0, True), (0.4, True), (0.5, False), (1.0, False)])
def test_a_gradient_of_booleans_takes_the_one_to_the_left(t: float, expected: bool) -> None:
    assert resolve(NORMALIZE, [{"normalize": [True, False, False]}], MLP, t) is expected


def test_the_first_filter_that_fits_counts() -> None:
    setting = [{"filter": "mlp", "value": 0.3}, {"filter": "layers.1", "value": 0.7}, {"value": 0.1}]
    assert weight(setting, MLP) == 0.3
    assert weight(setting, Q_PROJ) == 0.7
    assert weight(setting, "model.norm.weight") == 0.1
    assert weight([{"filter": "*", "value": 0.2}], Q_PROJ) == 0.2


def test_a_filter_may_hold_a_gradient() -> None:
    assert weight([{"filter": "mlp", "value": [0, 1]}, {"value": 0.5}], MLP, t=0.25) == 0.25


def test_the_nearest_source_counts_then_the_default() -> None:
    assert resolve(WEIGHT, [{"weight": 0.1}, {"weight": 0.9}], MLP, 0.0) == 0.1
    only_attention = {"weight": [{"filter": "self_attn", "value": 0.1}]}
    assert resolve(WEIGHT, [only_attention, {"weight": 0.9}], MLP, 0.0) == 0.9  # no filter fits: the next source
    assert resolve(WEIGHT, [{}, {}], MLP, 0.0) is REQUIRED
    assert resolve(NORMALIZE, [{}], MLP, 0.0) is True


@pytest.mark.parametrize("value,expected", [("yes", True), ("off", False), (0, False), (1.0, True), (True, True)])
def test_booleans_as_older_yaml_has_them(value: Any, expected: bool) -> None:
    assert resolve(NORMALIZE, [{"normalize": value}], MLP, 0.0) is expected


@pytest.mark.parametrize(
    "parameters,message",
    [
        ({"wieght": 1}, "unknown parameter 'wieght' of ties; did you mean 'weight'"),
        ({"weight": "much"}, "weight is 'much': expected a number"),
        ({"weight": float("nan")}, "expected a number"),
        ({"weight": []}, "an empty list of values"),
        ({"weight": [0.1, {"value": 0.2}]}, "a list holds either numbers"),
        ({"weight": {"filter": "mlp"}}, "a conditional value has the keys"),
        ({"density": 1.5}, "must be above 0 and at most 1"),
        ({"density": [0.5, 0]}, "density is 0: must be above 0"),
        ({"normalize": True}, "'normalize' belongs to the whole merge"),
    ],
)
def test_what_is_refused_names_its_line(parameters: dict[str, Any], message: str) -> None:
    lines = "merge_method: ties\nmodels:\n  - model: a\n    parameters:\n"
    name = next(iter(parameters))
    file = parse_yaml(Path("recipe.yml"), f"{lines}      {name}: here\n")
    keys = ["models", 0, "parameters"]
    with pytest.raises(RecipeError, match=message) as caught:
        check_parameters(file, keys, parameters, METHODS["ties"], of_one_model=True)
    assert str(caught.value).startswith("recipe.yml:5: ")


def test_a_recipe_is_checked_without_its_models() -> None:
    text = "merge_method: slerp\nmodels:\n  - model: nowhere\n  - model: a\nparameters: {t: 0.5}\n"
    with pytest.raises(RecipeError, match="the key 'base_model' is missing; slerp needs one"):
        load_recipe(parse_yaml(Path("recipe.yml"), text))
    loaded = load_recipe(parse_yaml(Path("recipe.yml"), text + "base_model: nowhere\n"))
    assert loaded.method is METHODS["slerp"]
    assert loaded.line_of("a") == "recipe.yml:4" and loaded.line_of("nowhere") == "recipe.yml:3"
