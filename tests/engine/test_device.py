"""The path that accelerators take, on `cpu:0`, which is torch's processor and always there, and on a device that is as
strict as a card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import weightsmith
from tests.conftest import weightsmith_process
from weightsmith.errors import MergeError
from weightsmith.machine import best_device
from weightsmith.methods.registry import METHODS

READING = {"text": "random", "samples": 2, "context": 16}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_same_numbers_as_the_kernels(method: str, models: Path, tmp_path: Path, strict_device: str) -> None:
    most = METHODS[method].inputs[1]
    names = ["a"] if most == 1 else ["base", "a"] if most == 2 else ["a", "b"]
    own = {p.name for p in METHODS[method].parameters if p.scope != "shared"}
    entries = [
        {
            "model": str(models / name),
            "parameters": {k: v for k, v in (("weight", 0.7), ("density", 0.6), ("scale", 0.5)) if k in own},
        }
        for name in names
    ]
    recipe = {
        "merge_method": method,
        "models": entries,
        "dtype": "float32",
        "parameters": {"t": 0.3, "epsilon": 0.1} | READING,
    }
    if METHODS[method].needs_base:
        recipe["base_model"] = str(models / "base")
    known = {p.name for p in METHODS[method].parameters}
    recipe["parameters"] = {key: value for key, value in recipe["parameters"].items() if key in known}
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(recipe))
    merged = []
    for device in ("cpu", "cpu:0", strict_device):
        weightsmith.merge(tmp_path / "recipe.yml", tmp_path / device, device=device)
        merged.append(load_file(tmp_path / device / "model.safetensors"))
    assert all(torch.equal(merged[1][name], tensor) for name, tensor in merged[2].items())
    for name, kernel in merged[0].items():
        apart = (kernel - merged[1][name]).abs() > 1e-6 * kernel.abs().max()
        assert apart.float().mean() < 1e-3, name  # where a weighted sum cancels to a rounding, a sign is anyone's
        assert torch.isfinite(kernel).all()


@pytest.mark.parametrize("method", ["ties", "breadcrumbs", "dare_ties", "della", "slerp", "model_stock", "sce"])
def test_tensors_larger_than_a_block(method: str, models: Path, strict_device: str) -> None:
    names = ["base", "a"] if method == "slerp" else ["a", "b"]
    own = {"weight": 0.7, "density": 0.6} if "density" in {p.name for p in METHODS[method].parameters} else {}
    recipe = {
        "merge_method": method,
        "base_model": str(models / "base"),
        "models": [{"model": str(models / name), "parameters": own} for name in names],
        "dtype": "bfloat16",
    } | ({"parameters": {"t": 0.3}} if method == "slerp" else {})
    whole = weightsmith.merge(recipe, device="cpu:0")
    pieces = weightsmith.merge(recipe, device="cpu:0", memory="150kB")  # blocks of some thousand elements
    on_two = weightsmith.merge(recipe, device=f"{strict_device},strict:1")
    for name, tensor in whole.items():
        assert torch.equal(tensor, pieces[name]) and torch.equal(tensor, on_two[name]), name


@pytest.mark.parametrize("memory", [None, "150kB"])
@pytest.mark.parametrize("method", ["nuslerp", "ramplus", "pcb"])
def test_sums_over_columns_and_whole_models(method: str, memory: str | None, models: Path, strict_device: str) -> None:
    own = {"nuslerp_flatten": False, "nuslerp_row_wise": True} if method == "nuslerp" else {}
    recipe = {
        "merge_method": method,
        "base_model": str(models / "base"),
        "models": [{"model": str(models / name), "parameters": {"weight": w}} for name, w in (("a", 0.3), ("b", 0.7))],
        "dtype": "float32",
        "parameters": own,
    }
    if method != "nuslerp":
        for model in recipe["models"]:
            del model["parameters"]
    processor, device = weightsmith.merge(recipe), weightsmith.merge(recipe, device=strict_device, memory=memory)
    for name, tensor in processor.items():
        torch.testing.assert_close(device[name], tensor, rtol=1e-6, atol=1e-7)


def test_memory_that_holds_nothing(models: Path, tmp_path: Path) -> None:
    recipe: dict[str, Any] = {
        "merge_method": "tsv_m",
        "base_model": str(models / "base"),
        "models": [{"model": str(models / name)} for name in ("a", "b")],
    }
    with pytest.raises(MergeError, match=r"a matrix of 6,144 elements of 3 models takes up to 688 kB"):
        weightsmith.merge(recipe, tmp_path / "out", device="cpu:0", memory="200kB")
    recipe |= {"merge_method": "ties", "parameters": {"weight": 1.0, "density": 0.5}}
    with pytest.raises(MergeError, match="the smallest block of 3 models"):
        weightsmith.merge(recipe, tmp_path / "out", device="cpu:0", memory=1000)
    with pytest.raises(MergeError, match="on the processor, memory grows with threads"):
        weightsmith.merge(recipe, tmp_path / "out", memory=1000)
    assert not (tmp_path / "out").exists()


def test_memory_that_is_full(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(METHODS["linear"].__class__, "combine", full)
    recipe = {"merge_method": "linear", "models": [{"model": str(models / "a"), "parameters": {"weight": 1}}]}
    with pytest.raises(MergeError, match=r"its memory is full .* takes a bound, --memory 4GB"):
        weightsmith.merge(recipe, tmp_path / "out", device="cpu:0")
    assert not (tmp_path / "out").exists()


def test_several_devices_of_which_one_is_the_processor(models: Path, tmp_path: Path) -> None:
    recipe = {"merge_method": "linear", "models": [{"model": str(models / "a"), "parameters": {"weight": 1}}]}
    with pytest.raises(MergeError, match="several devices are accelerators; leave cpu out"):
        weightsmith.merge(recipe, tmp_path / "out", device="cpu:0,cpu")


def test_a_device_that_is_not_there(models: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yml").write_text(
        yaml.safe_dump(
            {"merge_method": "linear", "models": [{"model": str(models / "a"), "parameters": {"weight": 1}}]}
        )
    )
    for device in ("nonsense", "meta"):
        done = weightsmith_process("merge", tmp_path / "recipe.yml", tmp_path / "out", "--device", device)
        assert done.returncode == 2 and f"--device {device}: torch cannot use it here" in done.stderr
        assert not (tmp_path / "out").exists()


def test_the_summary_says_where_it_was_merged(models: Path, tmp_path: Path) -> None:
    entry = {"model": str(models / "a"), "parameters": {"weight": 1}}
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump({"merge_method": "linear", "models": [entry]}))
    for asked, used in (("auto", best_device()), ("cpu:0", "cpu:0")):
        done = weightsmith_process("merge", tmp_path / "recipe.yml", tmp_path / asked, "--device", asked)
        assert done.returncode == 0 and f" s on {used}" in done.stdout, done
    plain = weightsmith_process("merge", tmp_path / "recipe.yml", tmp_path / "plain")
    assert " s on " not in plain.stdout
    done = weightsmith_process("merge", tmp_path / "recipe.yml", tmp_path / "bounded", "--memory", "4GB")
    assert done.returncode == 2 and "goes with --device" in done.stderr and not (tmp_path / "bounded").exists()
    options = ("--device", "cpu:0", "--memory", "some", "--dry-run")
    done = weightsmith_process("merge", tmp_path / "recipe.yml", tmp_path / "bounded", *options)
    assert done.returncode == 2 and "--memory 'some': not a size" in done.stderr
    options = ("--device", "cpu:0", "--memory", "1kB", "--dry-run")
    done = weightsmith_process("merge", tmp_path / "recipe.yml", tmp_path / "bounded", *options)
    assert done.returncode == 2 and "the smallest block of 1 model takes" in done.stderr
