"""BERT and models of sentence-transformers: buffers in one of them only, prefixes of classes, files beside the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import weightsmith as ws


@pytest.fixture
def berts(tmp_path: Path) -> Path:
    """`new` as transformers saves it today; `old` with position_ids, `prefixed` with the prefix of a class with heads."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=32,
    )  # fmt: skip
    for name in ("new", "old", "prefixed"):
        BertModel(config).save_pretrained(tmp_path / name)
    for name, change in (
        ("old", lambda w: w | {"embeddings.position_ids": torch.arange(32).reshape(1, -1)}),
        ("prefixed", lambda w: {f"bert.{key}": value for key, value in w.items()}),
    ):
        path = tmp_path / name / "model.safetensors"
        save_file(change(load_file(path)), path)
    return tmp_path


def merge(folder: Path, *names: str) -> dict[str, torch.Tensor]:
    entries = [{"model": str(folder / name), "parameters": {"weight": 0.5}} for name in names]
    ws.merge({"merge_method": "linear", "models": entries}, folder / "out")
    return load_file(folder / "out/model.safetensors")


@pytest.mark.parametrize("names", [("new", "old"), ("old", "new")])
def test_a_buffer_that_one_model_lacks_is_left_out(names: tuple[str, str], berts: Path) -> None:
    merged = merge(berts, *names)
    stored = [load_file(berts / name / "model.safetensors") for name in names]
    assert merged.keys() == load_file(berts / "new/model.safetensors").keys()
    assert all(torch.equal(merged[n], (stored[0][n] + stored[1][n]) / 2) for n in merged)


@pytest.mark.parametrize("names", [("new", "prefixed"), ("prefixed", "new")])
def test_a_prefix_of_the_class_makes_no_other_model(names: tuple[str, str], berts: Path) -> None:
    merged = merge(berts, *names)
    plain, prefixed = (load_file(berts / name / "model.safetensors") for name in ("new", "prefixed"))
    assert merged.keys() == load_file(berts / names[0] / "model.safetensors").keys()
    for name, tensor in merged.items():
        short = name.removeprefix("bert.")
        assert torch.equal(tensor, (plain[short] + prefixed[f"bert.{short}"]) / 2)


def test_what_belongs_to_the_model_is_carried_and_no_python(berts: Path) -> None:
    kept = {
        "modules.json": [{"idx": 0, "path": ""}],
        "config_sentence_transformers.json": {"similarity_fn_name": "cosine"},
        "sentence_bert_config.json": {"max_seq_length": 32},
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
        "2_Dense/config.json": {"in_features": 32},
        "preprocessor_config.json": {"image_processor_type": "ViTImageProcessor", "auto_map": {"AutoProcessor": "x.Y"}},
        "processor_config.json": {"processor_class": "LlavaProcessor"},
        "video_preprocessor_config.json": {"size": 8},
        "chat_template.json": {"chat_template": "{{ messages }}"},
    }
    for name, content in kept.items():
        (berts / "new" / name).parent.mkdir(exist_ok=True)
        (berts / "new" / name).write_text(json.dumps(content))
    (berts / "new/additional_chat_templates").mkdir()
    (berts / "new/additional_chat_templates/tools.jinja").write_text("{{ tools }}")
    for code in ("modeling.py", "1_Pooling/pooling.py", "additional_chat_templates/template.py"):
        (berts / "new" / code).write_text("raise SystemExit")
    merge(berts, "new", "old")
    for name, content in kept.items():
        written = json.loads((berts / "out" / name).read_text())
        assert (
            written == {key: value for key, value in content.items() if key != "auto_map"}
            if isinstance(content, dict)
            else content
        )
    assert (berts / "out/additional_chat_templates/tools.jinja").read_text() == "{{ tools }}"
    assert not list((berts / "out").rglob("*.py"))


def test_a_base_that_writes_text_is_no_base_of_classifiers(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_labels=1
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    for name in ("one", "two"):
        LlamaForSequenceClassification(config).save_pretrained(tmp_path / name)
    assert "score.weight" in merge(tmp_path, "one", "two")
    entries = [{"model": str(tmp_path / name), "parameters": {"weight": 0.5}} for name in ("one", "two")]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(tmp_path / "base"), "models": entries}
    with pytest.raises(ws.PlanError, match=r"classifies \(score.weight\) and has no 'lm_head.weight'"):
        ws.plan(recipe)
