"""LoRA adapters as GGUF: llama.cpp adds what peft adds, and weightsmith reads them as adapters again."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import weightsmith
from tests.conftest import weightsmith_process
from tests.gguf.test_families import FAMILIES as ALL
from tests.gguf.test_families import FEW_HEADS, SIZE, save_model
from weightsmith.checkpoint.checkpoint import read_tensor
from weightsmith.errors import CheckpointError
from weightsmith.evaluation.backends.llama_cpp.llama_cpp_context import LlamaCppContext
from weightsmith.evaluation.backends.llama_cpp.llama_cpp_model import LlamaCppModel
from weightsmith.evaluation.backends.transformers.transformers_backend import TransformersBackend
from weightsmith.models.open_model import open_model

FAMILIES = {
    "llama": (FEW_HEADS, ["q_proj", "k_proj", "v_proj", "down_proj"]),
    "mistral": (FEW_HEADS, ["q_proj", "o_proj"]),
    "gemma2": (ALL["gemma2"], ["q_proj", "down_proj"]),
    "phi3": (SIZE, ["qkv_proj", "down_proj"]),
    "qwen2": (FEW_HEADS, ["k_proj", "gate_proj", "up_proj"]),
    "phi": (SIZE | {"intermediate_size": 1024}, ["q_proj", "v_proj", "fc1"]),  # llama.cpp fuses query, key and value
}


def save_adapter(base: Path, targets: list[str], folder: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(
        r=4, lora_alpha=10, target_modules=targets, rank_pattern={targets[0]: 6}, alpha_pattern={targets[-1]: 5}
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)


def llama_logits(path: Path, adapter: Path, tokens: np.ndarray) -> np.ndarray:
    """llama.cpp with the adapter applied when it runs, as `llama-cli --lora` does it."""
    model = LlamaCppModel(path)
    library = model.library
    loaded = library.llama_adapter_lora_init(model.pointer, str(adapter).encode())
    assert loaded
    with LlamaCppContext(model, len(tokens), batch_size=512, threads=2) as context:
        adapters = (library.llama_adapter_lora_p_ctypes * 1)(loaded)
        assert library.llama_set_adapters_lora(context._pointer, adapters, 1, (ctypes.c_float * 1)(1.0)) == 0
        return np.stack(context.decode([(int(token), position, [0], True) for position, token in enumerate(tokens)]))


@pytest.mark.parametrize("family", ["phi", *(pytest.param(f, marks=pytest.mark.more) for f in FAMILIES if f != "phi")])
def test_llama_cpp_adds_it_as_peft_does(family: str, tmp_path: Path) -> None:
    settings, targets = FAMILIES[family]
    base = save_model(family, settings, tmp_path / "base")
    save_adapter(base, targets, tmp_path / "adapter")
    done = weightsmith_process("export", tmp_path / "adapter", tmp_path / "adapter.gguf")
    assert done.returncode == 0, done.stderr
    assert "rank" in done.stdout
    file = weightsmith.export(base, tmp_path / "base.gguf", types="f32").files[0].path
    tokens = np.random.default_rng(0).integers(3, 384, 40).astype(np.int32)
    peft_logits = TransformersBackend(open_model(f"{base}+{tmp_path / 'adapter'}")).logits(tokens)
    plain = TransformersBackend(open_model(str(base))).logits(tokens)
    ours = llama_logits(file, tmp_path / "adapter.gguf", tokens)
    apart, moved = float(np.abs(ours - peft_logits).max()), float(np.abs(plain - peft_logits).max())
    assert apart < 0.02 * moved, (apart, moved)
    # And read again, on the folder and on the GGUF file.
    for reference in (base, file):
        one, two = (open_model(f"{reference}+{tmp_path / a}").checkpoint for a in ("adapter", "adapter.gguf"))
        assert one.tensors == two.tensors
        for name in one.tensors:
            a, b = (read_tensor(c, name, torch.float32) for c in (one, two))
            assert torch.allclose(a, b, atol=2e-3), name


@pytest.mark.more
def test_bad_adapters(tmp_path: Path, smollm: Path) -> None:
    base = save_model("llama", FEW_HEADS, tmp_path / "base")
    save_adapter(base, ["q_proj"], tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    adapter_config = json.loads(config.read_text())
    config.write_text(json.dumps(adapter_config | {"base_model_name_or_path": None}))
    cases = [
        ((), "does not name the base model; name it with --base"),
        (("--base", tmp_path / "nowhere"), "nowhere: no such folder or file"),
        (("--base", smollm), "was made for another model"),
        (("--base", base, "--type", "q8_0"), "an adapter is written as f32 or f16"),
    ]
    for options, message in cases:
        result = weightsmith_process("export", tmp_path / "adapter", tmp_path / "out.gguf", *options)
        assert result.returncode == 2 and message in result.stderr, result.stderr
        assert not (tmp_path / "out.gguf").exists()
    with pytest.raises(CheckpointError, match="is a GGUF file, but not a LoRA adapter"):
        open_model(f"{base}+{smollm}")
