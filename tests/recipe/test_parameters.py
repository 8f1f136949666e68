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


def test_a_filter_may_be_a_regular_expression() -> None:
    setting = [
        {"filter": r"re:layers\.[02]\.", "value": 0.3},
        {"filter": "re:(q|k)_proj", "value": 0.7},
        {"value": 0.1},
    ]
    assert weight(setting, "model.layers.0.mlp.up_proj.weight") == 0.3
    assert weight(setting, Q_PROJ) == 0.7
    assert weight(setting, MLP) == 0.1


def test_a_regular_expression_that_never_ends_is_refused() -> None:
    with pytest.raises(RecipeError, match="took more than"):
        weight([{"filter": r"re:^(?:(?:.a)|(?:a.)|(?:..))+$", "value": 0.3}], "a" * 61)


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
        ({"weight": {"filter": "re:(", "value": 1}}, "no regular expression"),
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


def warnings_of(parameters: str, method: str = "slerp") -> list[str]:
    text = f"merge_method: {method}\nbase_model: a\nmodels:\n  - model: b\n    parameters: {{weight: 1}}\n"
    return list(load_recipe(parse_yaml(Path("recipe.yml"), text + parameters)).warnings)


def test_a_parameter_that_the_method_does_not_use_is_a_warning_with_its_line() -> None:
    (first, second) = warnings_of("parameters: {t: 0.5, int8_mask: true}\n")
    assert first == "recipe.yml:6: 'int8_mask' is no parameter of slerp and does nothing; it has t"
    assert second.startswith("recipe.yml:5: 'weight' is no parameter of slerp")
    with pytest.raises(RecipeError, match=r"recipe\.yml:6: unknown parameter 'tt' of slerp; did you mean 't'"):
        warnings_of("parameters: {tt: 0.5}\n")


def test_a_parameter_of_the_whole_merge_does_nothing_at_one_model() -> None:
    text = "merge_method: ties\nbase_model: a\nmodels:\n  - model: b\n    parameters: {weight: 1, normalize: false}\n"
    (warning,) = load_recipe(parse_yaml(Path("recipe.yml"), text)).warnings
    assert warning.startswith("recipe.yml:5: 'normalize' belongs to the whole merge and does nothing at one model")


@pytest.mark.parametrize(
    "method,parameters,message",
    [
        ("karcher", {"max_iter": -1}, "max_iter is -1: must be at least 0"),
        ("karcher", {"max_iter": 1.5}, "expected a whole number"),
        ("tsv_m", {"embeddings": "meen"}, "expected one of mean, sum, base, matrix"),
        ("ties", {"density": 0}, "must be above 0 and at most 1"),
    ],
)
def test_bounds_and_words(method: str, parameters: dict[str, Any], message: str) -> None:
    file = parse_yaml(Path("recipe.yml"), "merge_method: x\n")
    with pytest.raises(RecipeError, match=message):
        check_parameters(file, ["parameters"], parameters, METHODS[method], of_one_model=False)
