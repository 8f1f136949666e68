"""Plans of tiny models: sources, settings and dtypes of each output tensor, layers of slices, warnings, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from weightsmith.errors import CheckpointError, PlanError, RecipeError
from weightsmith.files.inputs.yaml_file import parse_yaml
from weightsmith.planning.make_plan import make_plan, model_references
from weightsmith.planning.plan import Plan
from weightsmith.recipe.recipe import Recipe, load_recipe


def loaded(folder: Path, **recipe: Any) -> Recipe:
    return load_recipe(parse_yaml(folder / "recipe.yml", yaml.safe_dump(recipe, sort_keys=False)))


def plan(folder: Path, **recipe: Any) -> Plan:
    return make_plan(loaded(folder, **recipe))


def entries(names: str, **parameters: Any) -> list[dict[str, Any]]:
    return [{"model": name, "parameters": dict(parameters)} for name in names]


def test_every_tensor_has_its_sources_and_settings(models: Path) -> None:
    merge_plan = plan(models, merge_method="ties", base_model="base", models=entries("ab", weight=0.5, density=0.3))
    assert [model.reference for model in merge_plan.models.values()] == ["base", "a", "b"]
    tensor = next(t for t in merge_plan.tensors if t.name == "model.layers.1.mlp.up_proj.weight")
    assert [(s.model.reference, s.tensor) for s in tensor.sources] == [
        (name, tensor.name) for name in ("a", "b", "base")
    ]
    assert tensor.settings.base == 2 and tensor.settings.others == [0, 1]
    assert tensor.settings.per_input[0]["density"] == 0.3 and tensor.settings.per_input[2] == {}
    assert tensor.settings.shared["normalize"] is True and tensor.settings.shared["lambda"] == 1.0
    assert merge_plan.home.reference == "base"
    assert merge_plan.output_bytes == sum(t.info.nbytes for t in merge_plan.tensors)
    assert merge_plan.read_bytes == 3 * merge_plan.output_bytes


def test_gradients_run_over_the_layers_and_filters_over_names(models: Path) -> None:
    weight = [{"filter": "mlp", "value": [0, 1]}, {"value": 0.25}]
    merge_plan = plan(models, merge_method="linear", models=entries("ab", weight=weight))
    weights = {t.name: t.settings.per_input[0]["weight"] for t in merge_plan.tensors}
    assert [weights[f"model.layers.{n}.mlp.up_proj.weight"] for n in range(3)] == [0.0, 0.5, 1.0]
    assert [weights[f"model.layers.{n}.self_attn.q_proj.weight"] for n in range(3)] == [0.25] * 3
    assert weights["model.embed_tokens.weight"] == 0.25


def test_dtypes(models: Path) -> None:
    simple = {"merge_method": "linear", "models": entries("ab", weight=1)}
    assert {(t.round_to, t.info.dtype) for t in plan(models, **simple).tensors} == {("F32", "F32")}
    merge_plan = plan(models, **simple, dtype="bfloat16", out_dtype="float16")
    assert {(t.round_to, t.info.dtype) for t in merge_plan.tensors} == {("BF16", "F16")}
    assert merge_plan.config["dtype"] == "float16"


def test_slices_stack_layers(models: Path) -> None:
    slices = [
        {"sources": [{"model": "a", "layer_range": [0, 2]}]},
        {"sources": [{"model": "b", "layer_range": [1, 3]}]},
    ]
    merge_plan = plan(models, merge_method="passthrough", slices=slices)
    origins = {t.name: (t.sources[0].model.reference, t.sources[0].tensor) for t in merge_plan.tensors}
    layers = [origins[f"model.layers.{n}.mlp.up_proj.weight"] for n in range(4)]
    assert layers == [
        (model, f"model.layers.{n}.mlp.up_proj.weight") for model, n in (("a", 0), ("a", 1), ("b", 1), ("b", 2))
    ]
    assert origins["model.embed_tokens.weight"][0] == "a"  # what lies before the layers, from the first slice
    assert origins["lm_head.weight"][0] == origins["model.norm.weight"][0] == "b"  # and behind them, from the last
    assert merge_plan.config["num_hidden_layers"] == 4


def test_references_come_base_first(models: Path) -> None:
    recipe = loaded(models, merge_method="ties", base_model="base", models=entries("ab", weight=1))
    assert list(model_references(recipe)) == ["base", "a", "b"]


def test_weights_that_cancel_are_warned_about(models: Path) -> None:
    entries_ = [
        {"model": name, "parameters": {"weight": w}} for name, w in zip("abc", (0.65, -0.66, 0.03), strict=True)
    ]
    merge_plan = plan(
        models, merge_method="task_arithmetic", base_model="base", models=entries_, parameters={"normalize": True}
    )
    (warning,) = merge_plan.warnings
    assert "the weights 0.65, -0.66, 0.03 nearly cancel" in warning and "by 67" in warning  # 1.34 / 0.02
    assert plan(models, merge_method="task_arithmetic", base_model="base", models=entries_).warnings == ()
    assert plan(models, merge_method="linear", models=entries("ab", weight=0.5)).warnings == ()


def test_one_warning_for_a_gradient_of_weights_that_cancel(models: Path) -> None:
    gradients = [{"model": "a", "parameters": {"weight": [1.0, 0.9]}}, {"model": "b", "parameters": {"weight": -0.95}}]
    (warning,) = plan(models, merge_method="linear", models=gradients).warnings
    assert "nearly cancel" in warning and "tensors with other values give the same warning" in warning


REFUSED = {
    "no such model": (
        {"merge_method": "linear", "models": entries(["a", "nowhere"], weight=1)},
        r":\d+: nowhere: no such",
    ),
    "too few": ({"merge_method": "model_stock", "base_model": "base", "models": entries("a")}, "takes 3 or more model"),
    "twice": ({"merge_method": "linear", "models": entries("aa", weight=1)}, "the model 'a' is listed twice"),
    "no value": (
        {"merge_method": "linear", "models": entries("ab")},
        "the parameter 'weight' of linear has no value for a",
    ),
    "no base": (
        {
            "merge_method": "ties",
            "base_model": "base",
            "slices": [{"sources": [{"model": m, "layer_range": [0, 3], "parameters": {"weight": 1}} for m in "ab"]}],
        },
        "the base model 'base' is not among this slice's sources",
    ),
    "too deep": (
        {"merge_method": "passthrough", "slices": [{"sources": [{"model": "a", "layer_range": [0, 4]}]}]},
        "layer_range ends at 4; a has 3 layers",
    ),
    "uneven": (
        {
            "merge_method": "linear",
            "slices": [
                {
                    "sources": [
                        {"model": "a", "layer_range": [0, 2], "parameters": {"weight": 1}},
                        {"model": "b", "layer_range": [0, 3], "parameters": {"weight": 1}},
                    ]
                }
            ],
        },
        "b gives 3 layers where a gives 2",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case: str, models: Path) -> None:
    recipe, message = REFUSED[case]
    with pytest.raises((RecipeError, PlanError, CheckpointError), match=message):
        plan(models, **recipe)
