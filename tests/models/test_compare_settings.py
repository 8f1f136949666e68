"""Settings under which weights of the same shapes are other functions, in every spelling."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

import weightsmith as ws
from tests.conftest import weightsmith_process
from weightsmith.models.configs.compare_settings import compare_settings

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def test_rope_of_transformers_4_and_5_is_one_setting() -> None:
    old = {"rope_theta": 500000.0, "rope_scaling": LLAMA3}
    new = {"rope_parameters": {**LLAMA3, "rope_theta": 500000.0}}
    assert compare_settings(old, new) == []


def test_kinds_of_layers_have_ropes_of_their_own() -> None:
    old = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    new = {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
    }
    assert compare_settings(old, new) == []


@pytest.mark.parametrize(
    ("first", "second", "name", "breaks"),
    [
        ({"num_attention_heads": 4}, {"num_attention_heads": 8}, "num_attention_heads", True),
        ({"n_head": 4}, {"num_attention_heads": 8}, "num_attention_heads", True),
        ({"num_key_value_heads": 2}, {"num_key_value_heads": 4}, "num_key_value_heads", True),
        ({"hidden_act": "silu"}, {"hidden_act": "gelu"}, "activation", True),
        ({"position_embedding_type": "rope"}, {"position_embedding_type": "alibi"}, "position embedding", True),
        ({"rms_norm_eps": 1e-5}, {"rms_norm_eps": 1e-6}, "norm eps", False),
        ({"sliding_window": 4096}, {"sliding_window": 1024}, "sliding_window", False),
        ({"logit_scale": 0.0625}, {"logit_scale": 0.25}, "logit scale", False),
        ({"rope_theta": 1e4}, {"rope_theta": 1e6}, "rope theta", False),
        ({"rope_theta": 1e4}, {"rope_theta": 1e4, "rope_scaling": LLAMA3}, "rope scaling", False),
        ({"text_config": {"rms_norm_eps": 1e-5}}, {"rms_norm_eps": 1e-6}, "norm eps", False),
    ],
)
def test_each_difference_is_named(first: dict, second: dict, name: str, breaks: bool) -> None:
    assert [(one.name, one.breaks) for one in compare_settings(first, second)] == [(name, breaks)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"hidden_act": "swish"}, {"hidden_act": "silu"}),
        ({"hidden_act": "gelu_pytorch_tanh"}, {"activation_function": "gelu_new"}),
        ({"rms_norm_eps": 1e-5}, {"rms_norm_eps": 9.999999747378752e-06}),  # GGUF keeps float32
        ({"sliding_window": 4096, "use_sliding_window": False}, {"sliding_window": 1024}),
        ({"num_attention_heads": 4, "num_key_value_heads": None}, {"num_key_value_heads": 4}),
        (
            {"model_type": "gemma", "hidden_act": "gelu"},
            {"model_type": "gemma", "hidden_activation": "gelu_pytorch_tanh"},
        ),
        ({"max_position_embeddings": 4096}, {"max_position_embeddings": 8192}),
    ],
)
def test_other_words_for_the_same_are_no_difference(first: dict, second: dict) -> None:
    assert compare_settings(first, second) == []


@pytest.fixture
def with_settings(models: Path, tmp_path: Path) -> Path:
    """`a`, and `heads`, `rope`: model `b` with another config.json."""
    for name, changed in (
        ("heads", {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8}),
        ("rope", {"rope_theta": 5e5}),
    ):
        shutil.copytree(models / "b", tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        config.pop("rope_parameters", None)
        (tmp_path / name / "config.json").write_text(json.dumps(config | changed))
    shutil.copytree(models / "a", tmp_path / "a")
    for name in ("heads", "rope"):
        entries = [{"model": str(tmp_path / n), "parameters": {"weight": 0.5}} for n in ("a", name)]
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump({"merge_method": "linear", "models": entries}))
    return tmp_path


def test_another_function_is_refused_unless_that_is_meant(with_settings: Path) -> None:
    recipe = with_settings / "heads.yml"
    process = weightsmith_process("merge", recipe, with_settings / "out")
    assert process.returncode == 2
    assert "num_attention_heads 8 (not 4)" in process.stderr
    assert "--allow-different-settings" in process.stderr
    assert not (with_settings / "out").exists()
    allowed = weightsmith_process("merge", recipe, with_settings / "out", "--allow-crimes")
    assert allowed.returncode == 0, allowed.stderr
    assert "num_attention_heads 8 (not 4)" in allowed.stderr
    shown = weightsmith_process("inspect", with_settings / "a", with_settings / "heads")
    assert "another function than" in shown.stdout.replace("\n", " ")


def test_a_difference_in_degree_is_a_warning_with_both_values(with_settings: Path) -> None:
    plan = ws.plan(with_settings / "rope.yml")
    (warning,) = plan.warnings
    assert "rope theta 500000 (not 10000)" in warning
    assert "the merged model has the settings of" in warning
