"""LoRA adapters against peft's own merge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from weightsmith.checkpoint.checkpoint import read_tensor
from weightsmith.checkpoint.dtypes import as_array
from weightsmith.errors import CheckpointError
from weightsmith.models.open_model import open_model


def adapter(models: Path, out: Path, **settings) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(models / "base", dtype=torch.float32)
    tuned = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, value in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(value, std=0.1)
    tuned.save_pretrained(str(out))


CASES = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]},
    "all linear": {"r": 3, "lora_alpha": 5, "target_modules": "all-linear"},
    "rslora": {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": ["v_proj"]},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"v_proj": 2},
        "alpha_pattern": {"layers.1.self_attn.v_proj": 3},
    },
}


@pytest.mark.parametrize("case", CASES)
def test_same_weights_as_peft(case: str, models: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter(models, tmp_path / "lora", **CASES[case])
    base = AutoModelForCausalLM.from_pretrained(models / "base", dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, str(tmp_path / "lora")).merge_and_unload().state_dict()
    ours = open_model(f"{models / 'base'}+{tmp_path / 'lora'}").checkpoint
    assert set(ours.tensors) == set(theirs)
    for name, want in theirs.items():
        torch.testing.assert_close(read_tensor(ours, name), want, rtol=1e-6, atol=1e-7)
    whole, part = read_tensor(ours, "model.layers.1.self_attn.v_proj.weight").flatten(), torch.empty(100)
    ours.read("model.layers.1.self_attn.v_proj.weight", 37, 137, as_array(part))
    torch.testing.assert_close(part, whole[37:137], rtol=1e-6, atol=1e-7)


def test_an_adapter_of_another_model(models: Path, tmp_path: Path) -> None:
    adapter(models, tmp_path / "lora", r=4, target_modules=["q_proj"])
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(models / "base")
    config.hidden_size = 32
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="made for another model"):
        open_model(f"{tmp_path / 'other'}+{tmp_path / 'lora'}")


@pytest.mark.parametrize(
    "change,message",
    [({"peft_type": "LOHA"}, "only LORA"), ({"use_dora": True}, "use_dora"), ({"bias": "all"}, "biases")],
)
def test_kinds_that_are_not_read(change: dict, message: str, models: Path, tmp_path: Path) -> None:
    adapter(models, tmp_path / "lora", r=4, target_modules=["q_proj"])
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        open_model(f"{models / 'base'}+{tmp_path / 'lora'}")
