"""Tiny real models, made once per session."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "hidden_act": "silu",
}  # fmt: skip


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base` and the fine-tunes `a`, `b`, `c` of it: real transformers Llamas with noise on top."""
    from transformers import LlamaConfig, LlamaForCausalLM

    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    settings = {k: v for k, v in CONFIG.items() if k not in ("architectures", "model_type")}
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.save_pretrained(root / "base")
    clean = {k: v.clone() for k, v in model.state_dict().items()}
    for seed, name in enumerate("abc", start=1):
        generator = torch.Generator().manual_seed(seed)
        model.load_state_dict({k: v + 0.02 * torch.randn(v.shape, generator=generator) for k, v in clean.items()})
        model.save_pretrained(root / name)
    for folder in root.iterdir():
        config = json.loads((folder / "config.json").read_text())
        assert config["num_hidden_layers"] == 3
    return root
