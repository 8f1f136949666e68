"""config.json of stacked models, loaded by their classes in transformers: depth, layer kinds, heads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import weightsmith as ws

SIZES = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
IDS = torch.arange(3, 19).reshape(1, -1)


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=128, n_embd=32, n_layer=4, n_head=4, n_positions=32))


def gpt_neo() -> Any:
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    kinds = [[["global", "local"], 2]]
    config = GPTNeoConfig(
        vocab_size=128, hidden_size=32, num_layers=4, num_heads=4, attention_types=kinds, max_position_embeddings=32,
        window_size=4,
    )  # fmt: skip
    return GPTNeoForCausalLM(config)


def gemma3() -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(**SIZES, num_hidden_layers=4, num_key_value_heads=2, head_dim=8, sliding_window=4)
    config.layer_types = ["sliding_attention", "full_attention"] * 2
    return Gemma3ForCausalLM(config)


STACKED = {"gpt2": (gpt2, "transformer.h"), "gpt_neo": (gpt_neo, "transformer.h"), "gemma3": (gemma3, "model.layers")}


def stack(folder: Path, ranges: list[list[int]], **more: object) -> Path:
    slices = [{"sources": [{"model": str(folder), "layer_range": part}]} for part in ranges]
    recipe = folder.parent / "stack.yml"
    recipe.write_text(yaml.safe_dump({"merge_method": "passthrough", "slices": slices, **more}))
    return recipe


@pytest.mark.parametrize("family", STACKED)
def test_a_stack_computes_what_its_layers_do(family: str, tmp_path: Path) -> None:
    """Layers 0, 1, 1, 2, 3, each of the kind that it was: as the modules put together by hand."""
    from transformers import AutoModelForCausalLM

    make: Callable[[], Any] = STACKED[family][0]
    model = make().eval()
    model.save_pretrained(tmp_path / "base")
    ws.merge(stack(tmp_path / "base", [[0, 2], [1, 4]]), tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    blocks = model.get_submodule(STACKED[family][1])
    parent, _, name = STACKED[family][1].rpartition(".")
    taken = torch.nn.ModuleList([blocks[n] for n in (0, 1, 1, 2, 3)])
    setattr(model.get_submodule(parent), name, taken)
    model.config.num_hidden_layers = 5
    if family == "gemma3":
        model.config.layer_types = [model.config.layer_types[n] for n in (0, 1, 1, 2, 3)]
    with torch.no_grad():
        assert torch.equal(merged(IDS, use_cache=False).logits, model(IDS, use_cache=False).logits)


def test_entries_by_the_numbers_of_layers_follow(tmp_path: Path) -> None:
    """Gemma 4: the heads of its full attention are wider."""
    from transformers import AutoModelForCausalLM, Gemma4ForCausalLM, Gemma4TextConfig

    config = Gemma4TextConfig(
        **SIZES, num_hidden_layers=4, num_key_value_heads=2, head_dim=8, global_head_dim=16, sliding_window=4,
        layer_types=["sliding_attention", "full_attention"] * 2, hidden_size_per_layer_input=0, num_kv_shared_layers=0,
        vocab_size_per_layer_input=128,
    )  # fmt: skip
    Gemma4ForCausalLM(config).save_pretrained(tmp_path / "base")
    before = json.loads((tmp_path / "base/config.json").read_text())
    assert {int(n) for n in before["per_layer_config"]} == {1, 3}
    ws.merge(stack(tmp_path / "base", [[0, 2], [1, 4]]), tmp_path / "out")
    after = json.loads((tmp_path / "out/config.json").read_text())
    assert {int(n) for n in after["per_layer_config"]} == {1, 2, 4}
    _, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_every_key_that_counts_layers_is_written(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base/config.json").read_text()) | {"num_hidden_layers": 4}
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    written = ws.plan(stack(tmp_path / "base", [[0, 2], [1, 4]])).config
    assert (written["n_layer"], written["num_hidden_layers"]) == (5, 5)


def test_heads_come_from_the_last_slice(tmp_path: Path) -> None:
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    config = DistilBertConfig(vocab_size=128, dim=32, hidden_dim=64, n_layers=2, n_heads=4, max_position_embeddings=32)
    for name in ("first", "last"):
        DistilBertForMaskedLM(config).save_pretrained(tmp_path / name)
    slices = [{"sources": [{"model": str(tmp_path / name), "layer_range": [0, 2]}]} for name in ("first", "last")]
    ws.merge({"merge_method": "passthrough", "slices": slices}, tmp_path / "out")
    merged = load_file(tmp_path / "out/model.safetensors")
    first, last = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "last"))
    for name in merged:
        if name.startswith("vocab_"):
            assert torch.equal(merged[name], last[name]), name
        elif "embeddings" in name:
            assert torch.equal(merged[name], first[name]), name
    assert json.loads((tmp_path / "out/config.json").read_text())["n_layers"] == 4


def test_towers_keep_their_depth(tmp_path: Path) -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {**SIZES, "num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 8}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = Gemma3Config(
        text_config=text, vision_config=vision | {"image_size": 16, "patch_size": 8}, mm_tokens_per_image=4
    )
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "base")
    ws.merge(stack(tmp_path / "base", [[0, 3], [1, 4]]), tmp_path / "out")
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert written["text_config"]["num_hidden_layers"] == 6
    assert written["vision_config"]["num_hidden_layers"] == 4
    assert "num_hidden_layers" not in written
    _, report = Gemma3ForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def jamba(folder: Path) -> None:
    from transformers import JambaConfig, JambaForCausalLM

    config = JambaConfig(
        **SIZES, num_hidden_layers=4, num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1,
        expert_layer_period=2, expert_layer_offset=1, num_experts=2, mamba_d_state=4, mamba_dt_rank=4,
        use_mamba_kernels=False,
    )  # fmt: skip
    JambaForCausalLM(config).save_pretrained(folder)


def test_an_order_that_config_json_cannot_say_is_refused(tmp_path: Path) -> None:
    jamba(tmp_path / "base")
    with pytest.raises(ws.PlanError, match="attn_layer_period is 2") as refusal:
        ws.plan(stack(tmp_path / "base", [[0, 2], [1, 4]]))
    assert "whole periods" in str(refusal.value)


def test_whole_periods_can_be_stacked(tmp_path: Path) -> None:
    jamba(tmp_path / "base")
    assert ws.plan(stack(tmp_path / "base", [[0, 2], [0, 4]])).config["num_hidden_layers"] == 6


def test_a_model_with_encoder_and_decoder_has_no_one_stack_to_slice(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    T5ForConditionalGeneration(T5Config(vocab_size=128, d_model=32, d_ff=64, num_layers=2, num_heads=4, d_kv=8)).save_pretrained(
        tmp_path / "base"
    )  # fmt: skip
    with pytest.raises(ws.RecipeError, match="several stacks of layers"):
        ws.plan(stack(tmp_path / "base", [[0, 2]]))


def test_a_plain_merge_leaves_the_configuration_as_it_is(tmp_path: Path) -> None:
    """Lists that are as long as there are layers are not always lists of layers."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    config = Wav2Vec2Config(
        vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        conv_dim=[16, 16], conv_stride=[2, 2], conv_kernel=[3, 3], num_conv_pos_embedding_groups=2,
        num_conv_pos_embeddings=8,
    )  # fmt: skip
    for name in "ab":
        Wav2Vec2ForCTC(config).save_pretrained(tmp_path / name)
    entries = [{"model": str(tmp_path / name), "parameters": {"weight": 0.5}} for name in "ab"]
    ws.merge({"merge_method": "linear", "models": entries}, tmp_path / "out")
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("a", "out"))
    assert {key: after.get(key) for key in before} == before | {"transformers_version": None}
    _, report = Wav2Vec2ForCTC.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]


def test_a_class_that_transformers_lacks_is_said(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base/config.json").read_text()) | {"architectures": ["GPT5LMHeadModel"]}
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    (warning,) = ws.plan(stack(tmp_path / "base", [[0, 2], [1, 4]])).warnings
    assert "was not held against its class: transformers" in warning and "GPT5LMHeadModel" in warning


@pytest.mark.parametrize("fault", ["slow", "dies"])
def test_a_configuration_that_cannot_be_built_is_refused(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that builds it takes too long, or ends without an answer."""
    from weightsmith.models.configs import transformers_class

    gpt2().save_pretrained(tmp_path / "base")
    if fault == "slow":
        monkeypatch.setattr(transformers_class, "_SECONDS", 0.01)
    else:
        monkeypatch.setattr(transformers_class.child_process, "module_command", lambda module: ["/bin/false"])
    said = "takes more than 0.01 seconds" if fault == "slow" else "ended with 1: nothing was said"
    with pytest.raises(ws.PlanError, match=said):
        ws.plan(stack(tmp_path / "base", [[0, 1], [0, 1], [1, 4]]))
