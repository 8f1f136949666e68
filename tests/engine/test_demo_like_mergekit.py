"""The demo's TIES recipe on the real 135 M models: same numbers as mergekit, same bytes from GGUF and adapters."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open

import weightsmith
from tests.conftest import SKILLS
from tests.mergekit_oracle import run_mergekit


def recipe(references: dict[str, str]) -> dict:
    models = [{"model": references[s], "parameters": {"weight": 1.0, "density": 0.5}} for s in SKILLS]
    return {
        "merge_method": "ties",
        "base_model": references["base"],
        "models": models,
        "dtype": "float32",
        "parameters": {"normalize": False},
    }


def test_same_numbers_and_bytes(specialists: Path, smollm: Path, demo: Path, tmp_path: Path, capsys) -> None:
    made = recipe({name: str(specialists / name) for name in ("base", *SKILLS)})
    (tmp_path / "ties.yml").write_text(json.dumps(made))
    summary = weightsmith.merge(tmp_path / "ties.yml", tmp_path / "ours", threads=1)
    reference = run_mergekit(made, tmp_path / "theirs")
    apart, worst = 0, 0.0
    with safe_open(tmp_path / "ours" / "model.safetensors", "pt") as ours:
        assert set(ours.keys()) == set(reference)
        for name, want in reference.items():
            got, size = ours.get_tensor(name), want.abs().max() * 0.1
            relative = (got - want).abs() / want.abs().clamp(min=size)
            far = relative > 1e-6
            apart += int(far.sum())
            worst = max(worst, float(relative[~far].max()))
    with capsys.disabled():
        print(
            f"\nTIES on 135 M: {apart} elements apart, {summary.trim_ties} ties at thresholds, others within "
            f"{worst:.1e}"
        )
    assert apart <= summary.trim_ties <= 1e-5 * sum(t.numel() for t in reference.values())
    # The demo read GGUF and LoRA files, with two threads where there are two.
    assert (demo / "merged" / "model.safetensors").read_bytes() == (
        tmp_path / "ours" / "model.safetensors"
    ).read_bytes()


def test_gguf_is_read_as_transformers_reads_it(specialists: Path, smollm: Path, monkeypatch) -> None:
    from transformers import AutoModelForCausalLM, modeling_gguf_pytorch_utils

    # it looks for the metadata of the package `gguf`; ours came with the converter, which has none
    monkeypatch.setattr(modeling_gguf_pytorch_utils, "is_gguf_available", lambda *version: True)

    reference = AutoModelForCausalLM.from_pretrained(str(smollm.parent), gguf_file=smollm.name, dtype=torch.float32)
    with safe_open(specialists / "base" / "model.safetensors", "pt") as ours:
        names = set(ours.keys())
        assert names == {n for n in reference.state_dict() if n != "lm_head.weight"}
        for name in names:
            assert torch.equal(ours.get_tensor(name), reference.state_dict()[name]), name
