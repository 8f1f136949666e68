"""Every file of examples/, run as its first lines say, on tiny models under the names it has."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import weightsmith as ws
from tests.code_blocks import ROOT
from tests.conftest import CONFIG, weightsmith_process
from tests.models.layouts.test_phi_layouts import phis  # noqa: F401

EXAMPLES = ROOT / "examples"
SETTINGS = {key: value for key, value in CONFIG.items() if key not in ("architectures", "model_type")}


def save(folder: Path, seed: int, **changed: object) -> Path:
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**SETTINGS | changed)).save_pretrained(folder)
    return folder


def ties_phi_2(folder: Path, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue("phis")
    for source, name in (("base", "phi-2"), ("one-phi-msft", "phi-2-coder"), ("two-sequential", "phi-2-chat")):
        shutil.copytree(root / source, folder / name)


def frankenmerge(folder: Path, request: pytest.FixtureRequest) -> None:
    for seed, name in enumerate(("llama-a", "llama-b")):
        save(folder / name, seed, num_hidden_layers=32, hidden_size=16, intermediate_size=24)


def gradient_slerp(folder: Path, request: pytest.FixtureRequest) -> None:
    for seed, name in enumerate(("mistral-a", "mistral-b")):
        save(folder / name, seed)


def lora_merge(folder: Path, request: pytest.FixtureRequest) -> None:
    from peft import LoraConfig, get_peft_model

    save(folder / "base", 0)
    for seed, name in enumerate(("lora-sql", "lora-chat"), start=1):
        torch.manual_seed(seed)
        adapted = get_peft_model(
            AutoModelForCausalLM.from_pretrained(folder / "base"),
            LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False),
        )
        adapted.save_pretrained(folder / name)


def gguf_in_and_out(folder: Path, request: pytest.FixtureRequest) -> None:
    models = request.getfixturevalue("chat_models")
    for source, name in (("a", "chat"), ("b", "code")):
        ws.export(models / source, folder / f"{name}-q8_0.gguf", types="q8_0", check="none")


def tsv_m(folder: Path, request: pytest.FixtureRequest) -> None:
    for seed, name in enumerate(("base", "expert-math", "expert-code", "expert-chat")):
        save(folder / name, seed)


def mixture_of_experts(folder: Path, request: pytest.FixtureRequest) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    for seed, name in enumerate(("moe-base", "moe-chat", "moe-code")):
        torch.manual_seed(seed)
        config = MixtralConfig(**SETTINGS, num_local_experts=4, num_experts_per_tok=2)
        MixtralForCausalLM(config).save_pretrained(folder / name)


def search(folder: Path, request: pytest.FixtureRequest) -> None:
    models = request.getfixturevalue("chat_models")
    for source, name in (("base", "base"), ("a", "coder"), ("b", "writer")):
        shutil.copytree(models / source, folder / name)
    rows = request.getfixturevalue("questions").read_text(encoding="utf-8")
    (folder / "skill.jsonl").write_text(rows * 8, encoding="utf-8")


def long_to_short(folder: Path, request: pytest.FixtureRequest) -> None:
    models = request.getfixturevalue("chat_models")
    for source, name in (("base", "math-base"), ("a", "math-reasoning"), ("b", "math-instruct")):
        shutil.copytree(models / source, folder / name)


MODELS: dict[str, Callable[[Path, pytest.FixtureRequest], None]] = {
    "ties-phi-2": ties_phi_2,
    "frankenmerge": frankenmerge,
    "gradient-slerp": gradient_slerp,
    "lora-merge": lora_merge,
    "gguf-in-and-out": gguf_in_and_out,
    "tsv-m": tsv_m,
    "mixture-of-experts": mixture_of_experts,
    "search": search,
    "long-to-short": long_to_short,
}


def commands_of(example: Path) -> list[list[str]]:
    """Those of the comment that it begins with."""
    head = example.read_text(encoding="utf-8").split("\n\n")[0]
    return [line.split() for line in re.findall(r"^#   weightsmith (.+)$", head, re.MULTILINE)]


def test_every_example_has_models_and_a_line() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.yml")}
    assert names == MODELS.keys()
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"[{name}.yml]({name}.yml)" in listed for name in names)


@pytest.mark.parametrize("name", MODELS)
def test_it_runs_as_it_says(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    MODELS[name](tmp_path, request)
    text = (EXAMPLES / f"{name}.yml").read_text(encoding="utf-8")
    (tmp_path / f"{name}.yml").write_text(text.replace("trials: 20", "trials: 4"), encoding="utf-8")
    commands = commands_of(EXAMPLES / f"{name}.yml")
    assert commands
    for command in commands:
        done = weightsmith_process(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    for merged in tmp_path.glob("*/config.json"):
        if merged.parent.name == "merged":
            model = AutoModelForCausalLM.from_pretrained(merged.parent)
            assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()
            assert AutoConfig.from_pretrained(merged.parent).num_hidden_layers == model.config.num_hidden_layers
    if name == "frankenmerge":
        assert json.loads((tmp_path / "merged/config.json").read_text())["num_hidden_layers"] == 48
    if name == "lora-merge":
        assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["r"] == 16
    if name == "gguf-in-and-out":
        assert (tmp_path / "out/gguf/merged-q4_k_m.gguf").exists() and (tmp_path / "out/report.html").exists()
