"""Whole models that are quantized: merged as what they stand for, inspected, unified, or refused before the work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import weightsmith as ws
from tests.checkpoint.quantized_samples import awq, bitsandbytes_4bit, bitsandbytes_int8, fp8, gptq
from tests.conftest import save_stranger, stderr_lines, weightsmith_process

FORMATS = {
    "fp8": lambda weight: fp8("float32", (32, 32), weight),
    "nf4": lambda weight: bitsandbytes_4bit("nf4", nested=True, weight=weight),
    "int8": bitsandbytes_int8,
    "gptq": lambda weight: gptq(4, inputs=weight.shape[1], outputs=weight.shape[0]),
    "awq": lambda weight: awq(weight.shape[1], weight.shape[0]),
}


def quantize(model: Path, out: Path, format_name: str) -> dict[str, torch.Tensor]:
    """The linear layers of `model` quantized into the folder `out`; the values that all its weights stand for."""
    stored: dict[str, torch.Tensor] = {}
    values: dict[str, torch.Tensor] = {}
    config = json.loads((model / "config.json").read_text())
    for name, weight in load_file(model / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            stored[name], values[name] = weight.bfloat16(), weight.bfloat16().float()
            continue
        sample = FORMATS[format_name](weight.float())
        module = name.removesuffix(".weight")
        stored |= {f"{module}{part.removeprefix('a')}": tensor for part, tensor in sample.tensors.items()}
        values[name] = sample.values
        config["quantization_config"] = sample.config
    out.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(config))
    return values


def write_recipe(path: Path, *models: Path, **more: object) -> Path:
    entries = [{"model": str(model), "parameters": {"weight": 0.5}} for model in models]
    path.write_text(yaml.safe_dump({"merge_method": "linear", "models": entries, **more}))
    return path


@pytest.mark.parametrize("format_name", FORMATS)
def test_quantized_models_merge_as_what_they_stand_for(format_name: str, models: Path, tmp_path: Path) -> None:
    first = quantize(models / "a", tmp_path / "a", format_name)
    second = quantize(models / "b", tmp_path / "b", format_name)
    recipe = write_recipe(tmp_path / "r.yml", tmp_path / "a", tmp_path / "b")
    process = weightsmith_process("merge", recipe, tmp_path / "out")
    assert process.returncode == 0, process.stderr
    decoded = [line for line in stderr_lines(process) if "decoded to bfloat16" in line]
    assert len(decoded) == 2
    assert process.stderr.count("does not bring back what quantizing took") == 1
    merged = load_file(tmp_path / "out/model.safetensors")
    assert merged.keys() == first.keys()
    for name, tensor in merged.items():
        assert tensor.dtype == torch.bfloat16
        torch.testing.assert_close(tensor.float(), (first[name] + second[name]) / 2, rtol=2**-8, atol=1e-6)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"


def test_a_quantized_model_merges_with_one_that_is_not(models: Path, tmp_path: Path) -> None:
    values = quantize(models / "a", tmp_path / "a", "fp8")
    recipe = write_recipe(tmp_path / "r.yml", models / "b", tmp_path / "a", dtype="float32")
    merged = ws.merge(recipe)
    other = load_file(models / "b/model.safetensors")
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, (values[name] + other[name]) / 2, rtol=1e-6, atol=1e-7)


def test_the_dtype_is_that_of_weights_that_were_not_decoded(models: Path, tmp_path: Path) -> None:
    quantize(models / "a", tmp_path / "a", "gptq")
    weights = {name: weight.half() for name, weight in load_file(models / "b/model.safetensors").items()}
    (tmp_path / "b").mkdir()
    save_file(weights, tmp_path / "b/model.safetensors")
    (tmp_path / "b/config.json").write_text((models / "b/config.json").read_text())
    merged = ws.merge(write_recipe(tmp_path / "r.yml", tmp_path / "a", tmp_path / "b"))
    assert {tensor.dtype for name, tensor in merged.items() if name.endswith("_proj.weight")} == {torch.float16}


def test_inspect_and_unify_name_the_format(models: Path, tmp_path: Path) -> None:
    values = quantize(models / "a", tmp_path / "a", "gptq")
    quantize(models / "b", tmp_path / "b", "gptq")
    shown = weightsmith_process("inspect", tmp_path / "a", tmp_path / "b")
    assert shown.returncode == 0, shown.stderr
    assert "GPTQ, 4 bit" in shown.stdout
    assert "2 models can be merged" in shown.stdout
    unified = weightsmith_process("unify", tmp_path / "a", tmp_path / "out")
    assert unified.returncode == 0, unified.stderr
    assert "GPTQ, 4 bit, decoded to bfloat16" in unified.stdout
    written = load_file(tmp_path / "out/model.safetensors")
    for name, tensor in written.items():
        assert torch.equal(tensor, values[name].bfloat16())
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())


def test_transformers_loads_what_unify_decoded(models: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    values = quantize(models / "a", tmp_path / "a", "nf4")
    ws.unify(str(tmp_path / "a"), tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    assert all(torch.equal(loaded[name], value.bfloat16()) for name, value in values.items())


def test_settings_left_over_in_config_json_are_taken_for_what_they_are(models: Path, tmp_path: Path) -> None:
    """Weights that were dequantized and saved with the old settings."""
    weights = load_file(models / "a/model.safetensors")
    save_file(weights, tmp_path / "model.safetensors")
    config = json.loads((models / "a/config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = ws.open_model(str(tmp_path))
    assert model.quantization is None
    assert all(torch.equal(model[name], weight) for name, weight in weights.items())


@pytest.mark.parametrize("command", ["merge", "inspect", "unify", "export"])
def test_an_unknown_format_is_refused_by_every_command(command: str, models: Path, tmp_path: Path) -> None:
    quantize(models / "a", tmp_path / "a", "gptq")
    config = json.loads((tmp_path / "a/config.json").read_text())
    config["quantization_config"]["quant_method"] = "aqlm"
    (tmp_path / "a/config.json").write_text(json.dumps(config))
    arguments = {
        "merge": [write_recipe(tmp_path / "r.yml", tmp_path / "a", tmp_path / "a"), tmp_path / "out"],
        "inspect": [tmp_path / "a"],
        "unify": [tmp_path / "a", tmp_path / "out"],
        "export": [tmp_path / "a", tmp_path / "out"],
    }
    process = weightsmith_process(command, *arguments[command])
    assert process.returncode == 2
    assert "quantized by 'aqlm'" in process.stderr
    assert "Take the model it was made from" in process.stderr
    assert not (tmp_path / "out").exists()


def test_integers_that_are_no_known_buffer_stop_the_merge(tmp_path: Path) -> None:
    save_stranger(tmp_path / "m", 1, 2, (4, 4))
    weights = load_file(tmp_path / "m/model.safetensors") | {"net.1.packed": torch.ones(4, 2, dtype=torch.uint8)}
    save_file(weights, tmp_path / "m/model.safetensors")
    process = weightsmith_process("inspect", tmp_path / "m")
    assert process.returncode == 2
    assert "'net.1.packed' holds integers (U8 [4, 2])" in process.stderr
