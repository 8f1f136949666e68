"""`weightsmith merge` without a recipe and with mergekit-yaml's flags; `recipe` and `methods`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

import weightsmith as ws
from weightsmith.commands.app import app
from weightsmith.methods.registry import METHODS


def weightsmith(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "weightsmith"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def recipe(models: Path, tmp_path: Path) -> Path:
    entries = [{"model": str(models / name), "parameters": {"weight": 0.5}} for name in "ab"]
    path = tmp_path / "recipe.yml"
    path.write_text(yaml.safe_dump({"merge_method": "linear", "models": entries, "dtype": "float32"}))
    return path


def test_a_method_and_its_parameters_stand_for_a_recipe(models: Path, tmp_path: Path) -> None:
    base = models / "base"
    done = weightsmith(
        "merge", "--method", "ties", "--base", base, "--density", "0.5", "--weight=0.6,0.4", "--normalize", "false",
        models / "a", models / "b", "--dtype", "float32", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = done.stdout[: done.stdout.index(f"{tmp_path / 'out'}: ties of")]
    expected = {
        "merge_method": "ties",
        "base_model": str(base),
        "models": [
            {"model": str(models / "a"), "parameters": {"density": 0.5, "weight": 0.6}},
            {"model": str(models / "b"), "parameters": {"density": 0.5, "weight": 0.4}},
        ],
        "parameters": {"normalize": False},
        "dtype": "float32",
    }
    assert yaml.safe_load(printed) == expected
    assert yaml.safe_load((tmp_path / "out" / "merge_recipe.yml").read_text()) == expected
    by_recipe = ws.merge(expected)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert all(value.equal(by_recipe[name]) for name, value in written.items())


@pytest.mark.parametrize(
    "arguments,message",
    [
        (("--method", "tise", "a", "b", "-o", "out"), "unknown merge_method 'tise'; did you mean 'ties'"),
        (("--method", "linear", "a", "b"), "is missing: the folder to create"),
        (("--method", "linear", "--weight", "1,2,3", "a", "b", "-o", "out"), "3 values for 2 models"),
        (("--method", "linear", "--wieght", "1", "a", "b", "-o", "out"), "No such option: --wieght"),
        (("--method", "linear", "--weight", "{1}", "a", "b", "-o", "out"), "expected a number, true, false"),
        (("--method", "linear", "a", "b", "-o", "out", "--weight"), "requires a value"),
        (("recipe.yml", "out", "--lora-merge-cache"), "requires a value"),
        (("--base", "a", "recipe.yml", "out"), "goes with --method only"),
        (("recipe.yml",), "expected RECIPE and OUT, found 1 paths"),
        (("--unsafe-truncate-embeddings", "recipe.yml", "out"), "name the vocabulary in the recipe"),
    ],
)
def test_what_makes_no_recipe_is_refused(arguments: tuple[str, ...], message: str) -> None:
    done = weightsmith("merge", *arguments)
    assert done.returncode == 2 and message in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_every_flag_of_mergekit_yaml_is_taken(recipe: Path, tmp_path: Path) -> None:
    """All that its command declares, in both forms, but those that need a GPU here or are refused in words."""
    from mergekit.scripts.run_yaml import main

    left_out = {"--cuda", "--gpu-rich", "--unsafe-truncate-embeddings", "--help", "--device"}
    arguments: list[str] = []
    for option in main.params:
        for flag in (*option.opts, *option.secondary_opts):
            if flag in left_out or not flag.startswith("-"):
                continue
            value = {"integer": "2", "size": "5B", "text": str(tmp_path / "x")}.get(option.type.name)
            takes_value = not (getattr(option, "is_flag", False) or getattr(option, "count", False))
            arguments += [flag, value] if takes_value and value else [flag]
    done = weightsmith("merge", recipe, tmp_path / "out", *arguments)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "does nothing here: " in line]
    assert len(lines) == len({line.partition(":")[0] for line in lines}) > 8


@pytest.mark.parametrize(("method", "said"), [("iso_c", True), ("linear", False)])
def test_a_gpu_for_whole_matrices_is_pointed_out(
    method: str, said: bool, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weightsmith.machine.has_gpu", lambda: True)
    base = ["--base", str(models / "base")] if method == "iso_c" else ["--weight", "1"]
    arguments = ["merge", "--method", method, *base, str(models / "a"), str(models / "b"), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and ("there is a GPU: --device cuda" in done.stderr) == said


def test_recipe_check_show_and_schema(recipe: Path) -> None:
    done = weightsmith("recipe", "check", recipe)
    assert done.returncode == 0 and "can be merged: linear of 2 models" in done.stdout
    shown = weightsmith("recipe", "show", recipe).stdout
    assert "model.norm.weight [64] F32: " in shown and "weight 0.5" in shown
    recipe.write_text(recipe.read_text() + "densty: 1\n")
    refused = weightsmith("recipe", "check", recipe)
    assert refused.returncode == 2 and "unknown key 'densty'" in refused.stderr
    assert weightsmith("recipe", "check").returncode == 2


def test_the_schema_takes_recipes_and_refuses_others() -> None:
    schema = json.loads(weightsmith("recipe", "schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    long = {"model": {"path": "a", "revision": "v2"}, "lora": "b"}
    entries = [{"model": long, "parameters": {"weight": [0.1, {"value": 1}]}}]
    good = {"merge_method": "ties", "base_model": long, "models": [{"model": "a", "parameters": None}]}
    filtered = {"weight": [{"filter": "re:q_proj", "value": [0.1, 0.9]}, {"value": 1}], "density": 0.5}
    for recipe in (good, good | {"parameters": filtered, "dtype": "torch.bfloat16", "tokenizer": {"source": "union"}}):
        validator.validate(recipe)
        ws.Recipe.from_dict(recipe)
    for wrong in ({"merge_method": "tise"}, {"models": entries}, {"parameters": {"wieght": 1}}, {"dtype": "bf16"}):
        assert list(validator.iter_errors(good | wrong)), wrong


def test_methods_are_listed_and_explained() -> None:
    listed = weightsmith("methods").stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(METHODS)
    explained = weightsmith("methods", "della").stdout
    for part in (
        "della: DELLA",
        "Paper:  https://arxiv.org/abs/2406.11617",
        "  density (1.0; of each model but the base)",
    ):
        assert part in explained
    done = weightsmith("methods", "dela")
    assert done.returncode == 2 and "did you mean 'della'" in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize("name", METHODS)
def test_the_example_of_a_method_is_a_recipe(name: str) -> None:
    from weightsmith.methods.describe import example_recipe

    recipe = ws.Recipe.from_dict(yaml.safe_load(example_recipe(METHODS[name])))
    assert recipe.method.name == name and not recipe.warnings
