"""Every form in which mergekit takes a model, a dtype, a token, and empty keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from weightsmith.errors import RecipeError
from weightsmith.files.inputs.yaml_file import parse_yaml
from weightsmith.recipe.model_reference import short_reference
from weightsmith.recipe.recipe import Recipe


@pytest.mark.parametrize(
    "value,expected",
    [
        ("owner/name@v2+adapter", "owner/name@v2+adapter"),
        ({"model": "owner/name"}, "owner/name"),
        ({"model": {"path": "owner/name"}}, "owner/name"),
        ({"model": {"path": "owner/name", "revision": "v2"}, "lora": None}, "owner/name@v2"),
        ({"model": {"path": "a"}, "lora": {"path": "b", "revision": "c"}, "override_architecture": None}, "a+b@c"),
        ({"model": "a", "lora": "b"}, "a+b"),
    ],
)
def test_a_model_has_short_and_long_forms(value: Any, expected: str) -> None:
    assert short_reference(value) == expected


@pytest.mark.parametrize(
    "value,message",
    [
        ({"path": "a"}, "unknown key 'path'"),
        ({"lora": "a"}, "the key 'model' is missing"),
        ({"model": {"revision": "v2"}}, "expected a path"),
        ({"model": {"path": "a", "rev": "v2"}}, "unknown key 'rev' of model"),
        ("$NOT_SET_ANYWHERE/a", "the environment variable 'NOT_SET_ANYWHERE'"),
        ("owner/$WEIGHTSMITH_TEST", "no absolute path"),
    ],
)
def test_other_forms_are_refused(value: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTSMITH_TEST", "secret")
    with pytest.raises(ValueError, match=message):
        short_reference(value)


def test_a_path_may_begin_with_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELS", "/data/models")
    monkeypatch.setenv("HOME", "/home/me")
    assert short_reference("${MODELS}/phi-2+$MODELS/adapter") == "/data/models/phi-2+/data/models/adapter"
    assert short_reference("~/phi-2") == "/home/me/phi-2"


def test_long_forms_stand_wherever_a_model_does() -> None:
    long = {"model": {"path": "a"}, "override_architecture": "LlamaForCausalLM"}
    recipe = Recipe.from_dict(
        {
            "merge_method": "slerp",
            "base_model": long,
            "slices": [
                {
                    "sources": [{"model": long, "layer_range": [0, 1]}, {"model": "b", "layer_range": [0, 1]}],
                    "base_model": {"model": "a"},
                    "parameters": None,
                }
            ],
            "parameters": {"t": 0.5},
            "tokenizer": {
                "source": {"model": {"path": "b"}},
                "tokens": {
                    "<x>": {"source": long},
                    "<y>": {"source": {"kind": "model_token", "model": {"model": "a"}, "token": "<x>"}},
                    "<z>": {"source": {"kind": "zero"}},
                },
            },
            "dtype": "torch.bfloat16",
        }
    )
    schema = recipe.schema
    assert schema.base_model == "a" and schema.dtype == "bfloat16" and schema.tokenizer
    assert [s.model for s in schema.slices[0].sources] == ["a", "b"] and schema.slices[0].parameters == {}
    assert schema.tokenizer.source == "b" and schema.tokenizer.tokens["<x>"].source == "a"
    assert schema.tokenizer.tokens["<y>"].source == {"kind": "model_token", "model": "a", "token": "<x>"}
    assert recipe.architectures == {"a": "LlamaForCausalLM"}


@pytest.mark.parametrize(
    "keys,message",
    [
        ({"models": [{"model": "a", "revision": "v2"}]}, "unknown key 'revision'.*`a@v2`"),
        ({"models": [{"model": "a"}], "slices": []}, "exactly one of 'models', 'slices' and 'modules'|at least 1 item"),
        ({}, "this one has none"),
        ({"modules": {"default": {}}}, "a module has exactly one of"),
        (
            {"models": [{"model": "a"}], "tokenizer": {"tokens": {"x": {"source": {"kind": "model_token"}}}}},
            "exactly one of",
        ),
        ({"models": [{"model": "a"}], "dtype": "float64"}, "unknown dtype 'float64'"),
        ({"experts": [], "gate_mode": "random", "merge_method": None}, "mergekit-moe|merge_method"),
    ],
)
def test_what_no_recipe_says_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict({"merge_method": "linear", **keys}, path=Path("recipe.yml"))


ANCHORS = """
tag: &BASE {first}
tag: &OTHER {second}
scale: &SCALE 0.84
env: &ENV
  parameters:
    scale:
      - {{filter: q_proj, value: *SCALE}}
      - {{value: 1}}
slices:
  - sources: [{{model: *BASE, layer_range: [0, 2]}}]
  - sources:
      - model: *OTHER
        layer_range: [1, 3]
        <<: *ENV
merge_method: passthrough
"""


def test_keys_that_define_anchors_may_stand_at_the_top() -> None:
    recipe = Recipe.from_yaml(parse_yaml(Path("recipe.yml"), ANCHORS.format(first="a", second="b")))
    (first, second) = (part.sources[0] for part in recipe.schema.slices or [])
    assert (first.model, second.model) == ("a", "b")
    assert second.parameters["scale"][0] == {"filter": "q_proj", "value": 0.84}


@pytest.mark.parametrize(
    "text,message",
    [
        ("merge_method: linear\nmerge_method: ties\n", r"recipe\.yml:2: the key 'merge_method' comes twice"),
        ("models:\n  - model: a\n    model: b\n", r"recipe\.yml:3: the key 'model' comes twice"),
        (
            "merge_method: linear\nmodels: [{model: a}]\nnormalize: true\n",
            r"yml:3: unknown key 'normalize'.*`parameters`",
        ),
        (
            "merge_method: linear\nmodels:\n  - model: a\n    weight: 1\n",
            r"yml:4: unknown key 'weight'; it is a parameter",
        ),
        ("merge_method: linear\nmodels: [{model: a}]\ntag: a\n", r"yml:3: unknown key 'tag'"),
    ],
)
def test_what_stands_twice_or_one_level_too_far_out_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_yaml(parse_yaml(Path("recipe.yml"), text))


def test_a_seed_in_the_recipe_is_a_warning() -> None:
    text = "merge_method: linear\nmodels: [{model: a}]\nrandom_seed: 7\n"
    (warning,) = Recipe.from_yaml(parse_yaml(Path("recipe.yml"), text)).warnings
    assert warning.startswith("recipe.yml:3: 'random_seed' does nothing in a recipe") and "--seed 7" in warning


def test_a_variable_never_becomes_part_of_a_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTSMITH_TEST", "secret")
    for reference in ("/models/base+owner/$WEIGHTSMITH_TEST", "owner/name+owner/${WEIGHTSMITH_TEST}"):
        with pytest.raises(ValueError, match="no absolute path"):
            short_reference(reference)


def test_a_key_that_counts_stands_once_even_with_an_anchor() -> None:
    text = "models: &A [{model: a}]\nmodels: &B [{model: b}]\nmerge_method: linear\n"
    with pytest.raises(RecipeError, match=r"recipe\.yml:2: the key 'models' comes twice"):
        Recipe.from_yaml(parse_yaml(Path("recipe.yml"), text))


def test_an_included_file_may_define_anchors(tmp_path: Path) -> None:
    (tmp_path / "common.yml").write_text("tag: &M a\nmodels: [{model: *M}]\n")
    (tmp_path / "recipe.yml").write_text("include: common.yml\nmerge_method: passthrough\n")
    assert Recipe.from_file(tmp_path / "recipe.yml").schema.models[0].model == "a"


def test_files_that_include_many_are_bounded(tmp_path: Path) -> None:
    for number in range(5):
        names = [f"{number + 1}.yml"] * 20
        (tmp_path / f"{number}.yml").write_text(f"include: {names}\n")
    (tmp_path / "5.yml").write_text("merge_method: linear\n")
    with pytest.raises(RecipeError, match="more than 50 files are included"):
        Recipe.from_file(tmp_path / "0.yml")


def test_a_stage_that_nothing_needs_is_named() -> None:
    text = "name: spare\nmerge_method: linear\nmodels: [{model: a}]\n---\nmerge_method: linear\nmodels: [{model: b}]\n"
    recipe = Recipe.from_yaml(parse_yaml(Path("recipe.yml"), text, several=True))
    assert recipe.used_stages == []
    assert recipe.warnings == ("recipe.yml:1: no stage that the output needs uses 'spare', so it is not made",)


def test_a_stage_that_is_only_a_base_is_part_of_the_recipe() -> None:
    text = (
        "name: first\nmerge_method: linear\nmodels: [{model: a}]\n---\n"
        "merge_method: task_arithmetic\nbase_model: first\nmodels: [{model: b}]\n"
    )
    recipe = Recipe.from_yaml(parse_yaml(Path("recipe.yml"), text, several=True))
    assert recipe.used_stages == ["first"] and not recipe.warnings
    assert "model: a" in recipe.text_with_stages.split("\n---\n")[-1]
