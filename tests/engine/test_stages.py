"""Recipes of several documents, against making each by itself; and recipes that include others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import weightsmith as ws
from tests.conftest import weightsmith_process
from weightsmith.errors import MergeError, PlanError, RecipeError


def entry(model: Path | str, **parameters) -> dict:
    return {"model": str(model), "parameters": parameters}


def write(path: Path, *documents: dict) -> Path:
    path.write_text("---\n".join(yaml.safe_dump(document) for document in documents))
    return path


def two_stages(models: Path, **of_first) -> list[dict]:
    base = str(models / "base")
    first = {
        "name": "first",
        "merge_method": "ties",
        "base_model": base,
        "models": [entry(models / "a", weight=1.0, density=0.3), entry(models / "b", weight=0.5, density=0.5)],
        "dtype": "bfloat16",
    } | of_first
    second = {
        "merge_method": "slerp",
        "base_model": "first",
        "models": [{"model": "first"}, {"model": str(models / "c")}],
        "parameters": {"t": 0.4},
        "dtype": "float32",
    }
    return [first, second]


@pytest.mark.parametrize(
    "of_first",
    [
        {},
        {"merge_method": "model_stock", "parameters": {"filter_wise": True}, "out_dtype": "float16"},
        {"merge_method": "dare_ties", "dtype": "float32"},
    ],
    ids=["ties", "by rows", "at random"],
)
@pytest.mark.parametrize("order", [1, -1], ids=["as used", "the other way round"])
def test_a_stage_that_is_streamed_is_the_stage_that_is_written(
    of_first: dict, order: int, models: Path, tmp_path: Path
) -> None:
    first, second = two_stages(models, **of_first)
    write(tmp_path / "first.yml", {key: value for key, value in first.items() if key != "name"})
    ws.merge(tmp_path / "first.yml", tmp_path / "by-itself", seed=3)
    second_alone = yaml.safe_dump(second).replace(" first", f" {tmp_path / 'by-itself'}")
    (tmp_path / "second.yml").write_text(second_alone)
    ws.merge(tmp_path / "second.yml", tmp_path / "expected", seed=3)

    both = write(tmp_path / "both.yml", *[first, second][::order])
    ws.merge(both, tmp_path / "out", seed=3)
    ws.merge(both, tmp_path / "kept", seed=3, keep_stages=True)
    assert not (tmp_path / "out-stages").exists()
    expected = (tmp_path / "expected" / "model.safetensors").read_bytes()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected
    assert (tmp_path / "kept" / "model.safetensors").read_bytes() == expected
    stage = tmp_path / "kept-stages" / "first" / "model.safetensors"
    assert stage.read_bytes() == (tmp_path / "by-itself" / "model.safetensors").read_bytes()
    again = ws.merge(both, tmp_path / "out", seed=3)
    assert again.done_already
    # in memory, too
    tensors = ws.merge(both, seed=3)
    loaded = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(tensors[name], loaded[name]) for name in loaded)


def test_a_stage_that_is_streamed_refuses_what_a_written_one_does(models: Path, tmp_path: Path) -> None:
    first, second = two_stages(models, merge_method="linear", dtype="float16")
    first["models"] = [entry(models / "a", weight=1e9)]
    first["parameters"] = {"normalize": False}
    del first["base_model"]
    second = {"merge_method": "weighted_median", "models": [entry("first"), entry(models / "b"), entry(models / "c")]}
    both = write(tmp_path / "both.yml", first, second)
    for keep_stages in (False, True):
        with pytest.raises(MergeError, match=r"float16 .at most 65504. cannot hold"):
            ws.merge(both, tmp_path / "out", keep_stages=keep_stages)
    assert not (tmp_path / "out").exists()


def test_models_of_all_stages_are_inspected(models: Path, tmp_path: Path) -> None:
    both = write(tmp_path / "both.yml", *two_stages(models))
    done = weightsmith_process("inspect", "--recipe", both)
    assert done.returncode == 0, done.stderr
    assert "4 models can be merged" in done.stdout


def test_warnings_of_a_stage_are_shown(models: Path, tmp_path: Path) -> None:
    first, second = two_stages(models, parameters={"filter_wise": True})
    warnings = ws.plan(write(tmp_path / "both.yml", first, second)).warnings
    assert any("stage 'first'" in warning and "filter_wise" in warning for warning in warnings)


def test_what_a_stage_takes_as_it_is_has_the_stage_s_dtype(models: Path, tmp_path: Path) -> None:
    first, second = two_stages(models, merge_method="passthrough")
    del first["base_model"], first["models"]
    first["modules"] = {"model.layers": {"models": [entry(models / "a")]}}  # the rest is copied, from float32
    both = write(tmp_path / "both.yml", first, second)
    stage = ws.plan(both).models["first"].checkpoint
    assert stage.tensors["model.norm.weight"].dtype == "BF16"
    out = np.empty(64 * 64, np.float32)
    stage.read("model.embed_tokens.weight", 0, len(out), out)
    embedding = load_file(models / "a" / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(torch.from_numpy(out), embedding.bfloat16().float().flatten()[: len(out)])


def test_stages_like_mergekit_multi(models: Path, tmp_path: Path) -> None:
    first, second = two_stages(models, merge_method="task_arithmetic", dtype="float32")
    first["models"] = [entry(models / "a", weight=0.7), entry(models / "b", weight=0.5)]
    second = second | {
        "merge_method": "linear",
        "models": [entry("first", weight=0.5), entry(models / "c", weight=0.5)],
    }
    del second["base_model"], second["parameters"]
    both = write(tmp_path / "both.yml", first, second)
    ws.merge(both, tmp_path / "ours")
    command = [str(Path(sys.executable).parent / "mergekit-multi"), str(both), "--out-path", str(tmp_path / "theirs")]
    done = subprocess.run([*command, "-I", str(tmp_path / "between")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-6)


def test_a_stage_with_a_tokenizer_of_its_own_is_written_for_the_time(models: Path, tmp_path: Path) -> None:
    first, second = two_stages(models, chat_template="chatml")
    both = write(tmp_path / "both.yml", first, second)
    ws.merge(both, tmp_path / "out")
    assert "im_start" in (tmp_path / "out" / "chat_template.jinja").read_text()
    assert not (tmp_path / "out-stages").exists()
    with pytest.raises(PlanError, match="the stage 'first' has to be written before it can be used"):
        ws.merge(both)


@pytest.mark.parametrize(
    "names,message",
    [
        (("x", "x"), r"recipe\.yml:\d+: two stages have the name 'x'"),
        ((None, None), "two stages have no name"),
        (("x", "y"), "no stage uses x or y"),
    ],
)
def test_it_must_be_clear_which_stage_is_the_output(names: tuple, message: str, tmp_path: Path) -> None:
    stages = [{"merge_method": "passthrough", "models": [{"model": "a"}]} for _ in names]
    named = [stage | ({"name": name} if name else {}) for stage, name in zip(stages, names, strict=True)]
    with pytest.raises(RecipeError, match=message):
        ws.load_recipe(write(tmp_path / "recipe.yml", *named))


def test_stages_in_a_circle_are_refused(tmp_path: Path) -> None:
    stages = [{"name": a, "merge_method": "passthrough", "models": [{"model": b}]} for a, b in ("xy", "yx")]
    stages.append({"merge_method": "passthrough", "models": [{"model": "x"}]})
    with pytest.raises(RecipeError, match="in a circle: x -> y -> x"):
        ws.load_recipe(write(tmp_path / "recipe.yml", *stages))


def test_a_recipe_includes_another(models: Path, tmp_path: Path) -> None:
    whole = {
        "merge_method": "ties",
        "base_model": str(models / "base"),
        "models": [entry(models / "a", weight=1.0), entry(models / "b", weight=0.5)],
        "parameters": {"density": 0.4, "normalize": False},
        "dtype": "float32",
    }
    write(tmp_path / "common.yml", {**whole, "parameters": {"density": 0.9, "normalize": False}, "dtype": "bfloat16"})
    own = {"include": "common.yml", "parameters": {"density": 0.4}, "dtype": "float32"}
    included = ws.load_recipe(write(tmp_path / "recipe.yml", own))
    assert included.schema == ws.Recipe.from_dict(whole).schema
    write(tmp_path / "common.yml", {**whole, "dtype": "bflaot16"})
    with pytest.raises(RecipeError, match=r"common\.yml:\d+: dtype: unknown dtype 'bflaot16'"):
        ws.load_recipe(write(tmp_path / "recipe.yml", {"include": "common.yml"}))
    with pytest.raises(RecipeError, match="includes itself"):
        ws.load_recipe(write(tmp_path / "common.yml", {"include": ["common.yml"]}))
    with pytest.raises(RecipeError, match="no such file"):
        ws.load_recipe(write(tmp_path / "recipe.yml", {"include": "other.yml"}))
