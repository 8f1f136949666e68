"""`modules` of a recipe: which tensors each part has, and what happens to those in none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file

import weightsmith as ws
from tests.mergekit_oracle import run_mergekit
from weightsmith.errors import RecipeError


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models with an encoder and a decoder, `a` and `b`."""
    folder = tmp_path_factory.mktemp("t5")
    config = transformers.T5Config(
        vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=3, num_heads=2,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    for number, name in enumerate("ab"):
        torch.manual_seed(number)
        transformers.T5ForConditionalGeneration(config).save_pretrained(folder / name)
    return folder


def recipe_of(folder: Path, **modules) -> dict:
    return {"merge_method": "linear", "modules": modules, "dtype": "float32"}


def models(folder: Path, of_a: float) -> dict:
    weights = {"a": of_a, "b": 1 - of_a}
    return {"models": [{"model": str(folder / n), "parameters": {"weight": w}} for n, w in weights.items()]}


def merged(recipe: dict, tmp_path: Path) -> dict[str, torch.Tensor]:
    path = tmp_path / "recipe.yml"
    path.write_text(yaml.safe_dump(recipe))
    ws.merge(path, tmp_path / "out")
    return load_file(tmp_path / "out" / "model.safetensors")


def test_encoder_and_decoder_like_mergekit(t5: Path, tmp_path: Path) -> None:
    recipe = recipe_of(t5, encoder=models(t5, 0.25), decoder=models(t5, 0.75))
    ours, theirs = merged(recipe, tmp_path), run_mergekit(recipe, tmp_path / "theirs")
    assert len([name for name in theirs if ".block." in name]) > 20
    for name, value in theirs.items():
        if ".block." in name:
            torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-6)
    # mergekit drops what is in no module; here it is the first model's
    assert torch.equal(ours["shared.weight"], load_file(t5 / "a" / "model.safetensors")["shared.weight"])
    _, info = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())


def test_what_is_in_no_module_is_said(t5: Path) -> None:
    plan = ws.plan(recipe_of(t5, encoder=models(t5, 0.25)))
    assert any("are in no module of the recipe" in warning for warning in plan.warnings)
    assert not any("no module" in warning for warning in ws.plan(recipe_of(t5, default=models(t5, 0.5))).warnings)


def test_a_module_may_be_named_by_its_prefix_and_have_parameters(t5: Path, tmp_path: Path) -> None:
    entries = {"models": [{"model": str(t5 / n)} for n in "ab"], "parameters": {"weight": 0.5}}
    recipe = recipe_of(t5, **{"decoder.block": models(t5, 1.0), "default": entries})
    result, a, b = merged(recipe, tmp_path), *(load_file(t5 / n / "model.safetensors") for n in "ab")
    for name, value in result.items():
        torch.testing.assert_close(value, a[name] if name.startswith("decoder.block") else (a[name] + b[name]) / 2)


def test_slices_within_a_module(t5: Path, tmp_path: Path) -> None:
    # the first layer alone has the biases of relative positions, so it can be nowhere else
    ranges = {"a": [0, 2], "b": [1, 3]}
    runs = [{"sources": [{"model": str(t5 / n), "layer_range": layers}]} for n, layers in ranges.items()]
    whole = {"models": [{"model": str(t5 / "a")}]}
    recipe = {"merge_method": "passthrough", "modules": {"decoder": {"slices": runs}, "default": whole}}
    result, b = merged(recipe, tmp_path), load_file(t5 / "b" / "model.safetensors")
    model, info = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert model.config.num_decoder_layers == 4 and model.config.num_layers == 2 and not any(info.values())
    name = "decoder.block.{}.layer.2.DenseReluDense.wo.weight"
    assert torch.equal(result[name.format(3)], b[name.format(2)])


def test_what_encoder_and_decoder_share_is_a_module(t5: Path) -> None:
    plan = ws.plan(recipe_of(t5, shared=models(t5, 0.25), default=models(t5, 0.75)))
    weights = {tensor.name: tensor.settings.per_input[0]["weight"] for tensor in plan.tensors}
    assert weights["shared.weight"] == 0.25
    assert weights["encoder.final_layer_norm.weight"] == 0.75


def test_a_module_that_is_not_there_is_refused(t5: Path) -> None:
    with pytest.raises(RecipeError, match=r"no tensor of .* is in the module 'vision_towr'; known: .*encoder"):
        ws.plan(recipe_of(t5, vision_towr=models(t5, 0.5)))
