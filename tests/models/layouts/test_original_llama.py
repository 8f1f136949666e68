"""Llama as Meta published it, `consolidated.*.pth` beside `params.json`; the converter of transformers 4.36 is the
oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import weightsmith
from tests.conftest import stderr_lines, weightsmith_process
from tests.transformers_436 import converter
from weightsmith.models.open_model import open_model

DIM, HEADS, KV, LAYERS, HIDDEN = 32, 4, 2, 2, 256  # 256: the converter computes it from `multiple_of`
PARAMS: dict[str, Any] = {
    "dim": DIM,
    "n_layers": LAYERS,
    "n_heads": HEADS,
    "n_kv_heads": KV,
    "norm_eps": 1e-5,
    "vocab_size": -1,
    "multiple_of": 256,
}
COLUMNS = ("tok_embeddings", "attention.wo", "feed_forward.w2")
Weights = dict[str, torch.Tensor]


def original(vocabulary: int = 96, kv: int = KV) -> Weights:
    torch.manual_seed(0)
    shapes = {"tok_embeddings": (vocabulary, DIM), "output": (vocabulary, DIM), "norm": (DIM,)}
    for n in range(LAYERS):
        here = f"layers.{n}"
        shapes |= {f"{here}.attention.w{p}": (DIM // (1 if p in "qo" else HEADS // kv), DIM) for p in "qkvo"}
        shapes |= {f"{here}.feed_forward.w{p}": (DIM, HIDDEN) if p == "2" else (HIDDEN, DIM) for p in "123"}
        shapes |= {f"{here}.attention_norm": (DIM,), f"{here}.ffn_norm": (DIM,)}
    weights = {f"{name}.weight": (torch.randn(shape) * 0.2).bfloat16() for name, shape in shapes.items()}
    return weights | {"rope.freqs": torch.arange(4.0)}


def write(folder: Path, weights: Weights, files: int, *, rows_only: tuple[str, ...] = (), params=PARAMS) -> Path:
    folder.mkdir(parents=True)
    for i in range(files):
        part = {}
        for name, value in weights.items():
            if value.dim() == 1:
                part[name] = value.clone()
                continue
            axis = 1 if any(c in name for c in COLUMNS) and not name.startswith(rows_only or ("-",)) else 0
            part[name] = value.chunk(files, axis)[i].clone()
        torch.save(part, folder / f"consolidated.{i:02d}.pth")
    (folder / "params.json").write_text(json.dumps(params))
    return folder


@pytest.mark.parametrize("files", [1, 2])
def test_equals_transformers_own_converter(files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = original(32000, kv=HEADS)  # that release knows no other vocabulary, and no grouped heads in one file
    params = {key: value for key, value in PARAMS.items() if key != "n_kv_heads"}
    folder = write(tmp_path / "meta", weights, files, params=params)
    reference = converter("llama", "convert_llama_weights_to_hf", tmp_path)
    saved: dict[str, Weights] = {}
    monkeypatch.setattr(
        reference.LlamaForCausalLM,
        "from_pretrained",
        lambda path, **_: saved.setdefault("bins", gather(Path(path))) and _Stop.now(),
    )
    with pytest.raises(_Stop):
        reference.write_model(str(tmp_path / "hf"), str(folder), {1: "7B", 2: "13B"}[files])
    weightsmith.unify(str(folder), tmp_path / "ours")
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    expected = {k: v for k, v in saved["bins"].items() if "inv_freq" not in k}
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[k], expected[k]) for k in ours)


class _Stop(Exception):
    @classmethod
    def now(cls) -> None:
        raise cls


def gather(folder: Path) -> Weights:
    result: Weights = {}
    for path in folder.glob("*.bin"):
        result |= torch.load(path, weights_only=True)
    return result


def test_embedding_split_by_rows_as_in_llama_3(tmp_path: Path) -> None:
    weights = original()
    for name, rows_only in (("columns", ()), ("rows", ("tok_embeddings",))):
        weightsmith.unify(str(write(tmp_path / name, weights, 2, rows_only=rows_only)), tmp_path / f"{name}-out")
    read = [(tmp_path / f"{n}-out" / "model.safetensors").read_bytes() for n in ("columns", "rows")]
    assert read[0] == read[1]


def test_loads_and_goes_back(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = write(tmp_path / "meta", original(), 2, params=PARAMS | {"use_scaled_rope": True, "rope_theta": 500000.0})
    done = weightsmith.unify(str(folder), tmp_path / "out")
    k = original()["layers.1.attention.wk.weight"].view(KV, 4, 2, DIM).transpose(1, 2).reshape(-1, DIM)
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["model.layers.1.self_attn.k_proj.weight"], k)
    assert (done.conversion or "").startswith("llama/meta naming") and tuple(done.left_out) == ("rope.freqs",)
    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(loading.values())
    assert model.config.rope_parameters["factor"] == 8.0 and model.config.rope_parameters["rope_theta"] == 500000.0
    weightsmith.unify(str(tmp_path / "out"), tmp_path / "back", to="meta")
    back, first = load_file(tmp_path / "back" / "model.safetensors"), original()
    assert back.keys() == first.keys() - {"rope.freqs"}
    assert all(torch.equal(back[k], first[k]) for k in back)
    weightsmith.unify(str(tmp_path / "back"), tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "out" / "model.safetensors"
    ).read_bytes()


def test_mistral_s_own_form(tmp_path: Path) -> None:
    weights = original()
    params = {k: v for k, v in PARAMS.items() if k != "multiple_of"}
    params |= {"hidden_dim": HIDDEN, "head_dim": DIM // HEADS, "vocab_size": 96, "rope_theta": 1e6}
    (tmp_path / "mistral").mkdir()
    save_file(
        {k: v for k, v in weights.items() if k != "rope.freqs"}, tmp_path / "mistral" / "consolidated.safetensors"
    )
    (tmp_path / "mistral" / "params.json").write_text(json.dumps(params))
    opened = open_model(str(tmp_path / "mistral"))
    assert opened.naming == "mistral/original" and opened.config["architectures"] == ["MistralForCausalLM"]
    weightsmith.unify(str(tmp_path / "mistral"), tmp_path / "out")
    weightsmith.unify(str(write(tmp_path / "meta", weights, 1)), tmp_path / "llama")
    a, b = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("out", "llama"))
    assert a == b


def test_parts_that_do_not_fit(tmp_path: Path) -> None:
    folder = write(tmp_path / "meta", original(), 2)
    part = torch.load(folder / "consolidated.01.pth", weights_only=True)
    for damage, message in (
        (part | {"layers.0.attention.wo.weight": torch.zeros(3, 3).bfloat16()}, "do not fit together"),
        (
            {k: v for k, v in part.items() if k != "norm.weight"},
            "'norm.weight' is in only one of this file and consolidated.00.pth",
        ),
    ):
        torch.save(damage, folder / "consolidated.01.pth")
        done = weightsmith_process("unify", folder, tmp_path / "out")
        assert done.returncode == 2 and message in done.stderr and len(stderr_lines(done)) == 1
