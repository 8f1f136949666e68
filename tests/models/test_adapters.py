"""Adapters as peft writes them: the model with the adapter computes what peft's does before it merges anything.

peft's own merge is no oracle for tied embeddings: it adds to the shared matrix what was trained for one of its two uses.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import weightsmith as ws
from tests.conftest import weightsmith_process
from tests.fuzzing import examples

IDS = torch.arange(3, 27).reshape(1, -1)
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def save_qwen2(folder: Path, *, tied: bool) -> None:
    """Linear layers with biases and without."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=tied)).save_pretrained(folder)


def save_gpt2(folder: Path) -> None:
    """Conv1D layers, of which c_proj is square."""
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32)).save_pretrained(folder)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tied`, `untied`, `gpt2`."""
    root = tmp_path_factory.mktemp("bases")
    save_qwen2(root / "tied", tied=True)
    save_qwen2(root / "untied", tied=False)
    save_gpt2(root / "gpt2")
    return root


def train(base: Path, out: Path, config: Any, **save: Any) -> torch.Tensor:
    """An adapter whose every number is moved, saved as `out`. Returns the logits of peft's model with it."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        if getattr(config, "layer_replication", None):  # peft 0.21 leaves layer_types as they are
            model.config.layer_types = ["full_attention"] * model.config.num_hidden_layers
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.05 * torch.randn(parameter.shape)
        shutil.rmtree(out, ignore_errors=True)
        model.save_pretrained(out, **save)
        with torch.no_grad():
            return model.eval()(IDS).logits


def logits_of(reference: str) -> torch.Tensor:
    """Of a model that we opened: its tensors loaded into its class."""
    import transformers

    model = ws.open_model(reference)
    architecture = getattr(transformers, model.config["architectures"][0])
    loaded = architecture(architecture.config_class.from_dict(model.config)).eval()
    missing, unexpected = loaded.load_state_dict(dict(model), strict=False)
    tied = {"lm_head.weight"} if model.config.get("tie_word_embeddings", True) else set()
    assert set(missing) <= tied and not unexpected
    with torch.no_grad():
        return loaded(IDS).logits


def check(base: Path, adapter: Path, config: Any, **save: Any) -> None:
    expected = train(base, adapter, config, **save)
    torch.testing.assert_close(logits_of(f"{base}+{adapter}"), expected, rtol=2e-5, atol=2e-5)


LINEAR = ("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj")


@st.composite
def lora_configs(draw: st.DrawFn) -> tuple[bool, dict[str, Any]]:
    """(whether the base is tied, options of LoraConfig that peft takes together)."""
    targets = draw(st.lists(st.sampled_from((*LINEAR, "embed_tokens", "lm_head")), min_size=1, unique=True))
    options: dict[str, Any] = {
        "r": draw(st.integers(1, 6)),
        "lora_alpha": draw(st.integers(1, 16)),
        "use_rslora": draw(st.booleans()),
        "use_dora": draw(st.booleans()),
        "bias": draw(st.sampled_from(("none", "all", "lora_only"))),
        "init_lora_weights": draw(st.sampled_from((True, False, "gaussian", "orthogonal"))),
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
    }
    if options["init_lora_weights"] == "orthogonal":
        options["r"] = 2 * draw(st.integers(1, 3))
    if draw(st.booleans()):
        options["rank_pattern"] = {"down_proj": draw(st.integers(1, 4)) * 2}
        options["alpha_pattern"] = {r"layers\.1\..*v_proj": draw(st.integers(1, 9))}
    free = [name for name in ("embed_tokens", "lm_head") if name not in targets]
    if free and draw(st.booleans()):
        options["modules_to_save"] = draw(st.lists(st.sampled_from(free), min_size=1, unique=True))
    elif "embed_tokens" in free and "lm_head" in free and draw(st.booleans()):
        rows = draw(st.lists(st.integers(0, 63), min_size=1, max_size=5, unique=True))
        options["trainable_token_indices"] = draw(st.sampled_from((rows, {"embed_tokens": rows})))
    if draw(st.integers(0, 4)) == 0 and not options.get("modules_to_save") and set(targets) <= set(LINEAR):
        options["layer_replication"] = draw(st.sampled_from(([[0, 2], [1, 2]], [[0, 1], [0, 2]])))
    return draw(st.booleans()), options


@examples(60, files=True)
@given(lora_configs())
def test_lora_in_any_combination_is_what_peft_computes(
    bases: Path, tmp_path: Path, drawn: tuple[bool, dict[str, Any]]
) -> None:
    from peft import LoraConfig

    tied, options = drawn
    check(bases / ("tied" if tied else "untied"), tmp_path / "adapter", LoraConfig(**options))


GPT2_TARGETS = [["c_attn"], ["attn.c_proj"], ["mlp.c_proj", "c_fc"], ["attn.c_proj", "lm_head"], ["wte", "c_attn"]]


@pytest.mark.parametrize("targets", GPT2_TARGETS, ids=" and ".join)
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("declared", [False, True])
def test_conv1d_is_transposed_by_module(
    targets: list[str], dora: bool, declared: bool, bases: Path, tmp_path: Path
) -> None:
    """Whatever `fan_in_fan_out` says, and where the matrix is square."""
    from peft import LoraConfig

    config = LoraConfig(r=3, target_modules=targets, use_dora=dora, init_lora_weights=False, fan_in_fan_out=declared)
    check(bases / "gpt2", tmp_path / "adapter", config)


def others() -> dict[str, Any]:
    from peft import IA3Config, LoHaConfig, LoKrConfig, TrainableTokensConfig

    targets = ["q_proj", "v_proj", "down_proj"]
    return {
        "LoHa": LoHaConfig(r=3, alpha=5, target_modules=targets, init_weights=False),
        "LoKr": LoKrConfig(r=3, alpha=5, target_modules=targets, init_weights=False),
        "LoKr, both factors": LoKrConfig(
            r=2, alpha=5, target_modules=targets, init_weights=False, decompose_both=True, decompose_factor=4
        ),
        "IA3": IA3Config(target_modules=targets, feedforward_modules=["down_proj"], init_ia3_weights=False),
        "tokens": TrainableTokensConfig(token_indices=[9, 4, 33], target_modules=["embed_tokens"]),
    }


@pytest.mark.parametrize("method", others())
@pytest.mark.parametrize("base", ["untied", "tied"])
def test_other_methods_are_what_peft_computes(method: str, base: str, bases: Path, tmp_path: Path) -> None:
    check(bases / base, tmp_path / "adapter", others()[method])


def test_ia3_scales_the_outputs_of_conv1d(bases: Path, tmp_path: Path) -> None:
    from peft import IA3Config

    config = IA3Config(
        target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], init_ia3_weights=False, fan_in_fan_out=True
    )  # fmt: skip
    check(bases / "gpt2", tmp_path / "adapter", config)


@pytest.mark.parametrize("base", ["untied", "tied"])
def test_an_adapter_may_bring_another_vocabulary(base: str, bases: Path, tmp_path: Path) -> None:
    """Saved after `resize_token_embeddings`, with nothing in modules_to_save."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(bases / base)
    model.resize_token_embeddings(70)
    tuned = get_peft_model(model, LoraConfig(r=3, target_modules=["q_proj"], init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    with torch.no_grad():
        expected = tuned.eval()(IDS).logits
    reference = f"{bases / base}+{tmp_path / 'adapter'}"
    torch.testing.assert_close(logits_of(reference), expected, rtol=2e-5, atol=2e-5)
    opened = ws.open_model(reference)
    assert opened.config["vocab_size"] == 70
    assert opened.config["tie_word_embeddings"] is (base == "tied")
    assert "70 rows, the base has 64" in (opened.conversion or "")


SPELLINGS = {
    "no prefix": lambda key: key.removeprefix("base_model.model."),
    "a prefix twice": lambda key: f"base_model.model.{key}",
    "the adapter's name": lambda key: key.replace(".weight", ".my_adapter.weight"),
    "torch.compile": lambda key: key.replace("base_model.model.", "base_model.model._orig_mod."),
    "FSDP": lambda key: key.replace("layers.0.", "layers.0._fsdp_wrapped_module."),
    "checkpointing": lambda key: key.replace("layers.1.", "layers.1._checkpoint_wrapped_module."),
    "distributed": lambda key: f"module.{key}",
    "trained with AutoModel": lambda key: key.replace("base_model.model.model.", "base_model.model."),
    "of a multimodal model before 4.52": lambda key: key.replace(
        "base_model.model.model.", "base_model.model.language_model.model."
    ),
    "of a multimodal model since 4.52": lambda key: key.replace(
        "base_model.model.model.", "base_model.model.model.language_model."
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_names_may_have_any_prefix_that_a_model_is_read_with(spelling: str, bases: Path, tmp_path: Path) -> None:
    from peft import LoraConfig

    config = LoraConfig(r=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    expected = train(bases / "untied", tmp_path / "adapter", config)
    path = tmp_path / "adapter/adapter_model.safetensors"
    save_file({SPELLINGS[spelling](key): value for key, value in load_file(path).items()}, path)
    reference = f"{bases / 'untied'}+{tmp_path / 'adapter'}"
    torch.testing.assert_close(logits_of(reference), expected, rtol=2e-5, atol=2e-5)


def test_a_head_for_classification_takes_the_output_matrixs_place(bases: Path, tmp_path: Path) -> None:
    """A reward model's adapter on a causal base, as it was trained."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(bases / "untied", num_labels=1)
    model.config.pad_token_id = 0
    tuned = get_peft_model(
        model, LoraConfig(r=3, target_modules=["q_proj"], init_lora_weights=False, task_type="SEQ_CLS")
    )
    with torch.no_grad():
        expected = tuned.eval()(IDS).logits
    tuned.save_pretrained(tmp_path / "adapter")
    entries = [{"model": f"{bases / 'untied'}+{tmp_path / 'adapter'}"}]
    ws.merge({"merge_method": "passthrough", "models": entries}, tmp_path / "out")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    merged.config.pad_token_id = 0
    assert type(merged).__name__ == "Qwen2ForSequenceClassification"
    with torch.no_grad():
        torch.testing.assert_close(merged.eval()(IDS).logits, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"peft_type": "VERA"}, "peft_type is 'VERA'"),
        ({"init_lora_weights": "pissa"}, "a base whose weights were changed when it was made"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "olora"}, "'olora'"),
        ({"init_lora_weights": "corda"}, "'corda'"),
        ({"init_lora_weights": "loftq"}, "'loftq'"),
        ({"init_lora_weights": "lora_ga"}, "'lora_ga'"),
        ({"use_qalora": True}, "use_qalora is set"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is set"),
        ({"use_tomorrow": True}, "use_tomorrow is set"),
        ({"layer_replication": [[0, 9]]}, "does not fit the base's layers"),
    ],
)
def test_what_is_not_read_is_refused_by_name(changed: dict[str, Any], words: str, bases: Path, tmp_path: Path) -> None:
    from peft import LoraConfig

    train(bases / "untied", tmp_path / "adapter", LoraConfig(r=3, target_modules=["q_proj"]))
    path = tmp_path / "adapter/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(ws.CheckpointError) as refusal:
        ws.open_model(f"{bases / 'untied'}+{tmp_path / 'adapter'}")
    assert words in str(refusal.value)


def test_an_adapter_of_another_model_is_refused(bases: Path, tmp_path: Path) -> None:
    from peft import LoraConfig
    from transformers import Qwen2Config, Qwen2ForCausalLM

    train(bases / "untied", tmp_path / "adapter", LoraConfig(r=3, target_modules=["q_proj"]))
    Qwen2ForCausalLM(Qwen2Config(**SIZES | {"hidden_size": 16})).save_pretrained(tmp_path / "other")
    with pytest.raises(ws.CheckpointError, match="made for another model"):
        ws.open_model(f"{tmp_path / 'other'}+{tmp_path / 'adapter'}")


def test_an_adapter_given_as_a_model_is_named_as_one(bases: Path, tmp_path: Path) -> None:
    from peft import LoraConfig

    train(bases / "untied", tmp_path / "adapter", LoraConfig(r=3, target_modules=["q_proj"]))
    process = weightsmith_process("inspect", tmp_path / "adapter")
    assert process.returncode == 2
    assert "is an adapter" in process.stderr
    assert f"BASE+{tmp_path / 'adapter'}" in process.stderr
