"""Fine-tunes in namings that nobody described, found by the values of their weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import weightsmith
from tests.conftest import CONFIG, stderr_lines, weightsmith_process
from weightsmith.checkpoint.checkpoint import read_tensor
from weightsmith.models.fit_to_base import fit_to
from weightsmith.models.open_model import open_model
from weightsmith.models.propose_mapping import propose_mapping

Weights = dict[str, torch.Tensor]
PAIRS = [
    ("model.embed_tokens", "trunk.tokens"),
    ("model.layers.", "trunk.block."),
    ("self_attn.", "a."),
    ("mlp.", "f."),
    ("q_proj", "x1"),
    ("k_proj", "x2"),
    ("v_proj", "x3"),
    ("o_proj", "x4"),
    ("gate_proj", "y1"),
    ("up_proj", "y2"),
    ("down_proj", "y3"),
    ("input_layernorm", "s1"),
    ("post_attention_layernorm", "s2"),
    ("model.norm", "trunk.last"),
    ("lm_head", "top"),
]


def renamed(weights: Weights) -> Weights:
    out = {}
    for name, value in weights.items():
        for new, old in PAIRS:
            name = name.replace(new, old)
        out[name] = value
    return out


def per_layer(change: Callable[[Weights, str], None]) -> Callable[[Weights], Weights]:
    def apply(weights: Weights) -> Weights:
        out = renamed(weights)
        for n in range(3):
            change(out, f"trunk.block.{n}.")
        return out

    return apply


def stacked(w: Weights, p: str) -> None:
    w[p + "a.all.weight"] = torch.cat([w.pop(f"{p}a.x{i}.weight") for i in (3, 1, 2)])


def grouped(w: Weights, p: str) -> None:
    q, k, v = (w.pop(f"{p}a.x{i}.weight") for i in (1, 2, 3))
    w[p + "a.all.weight"] = torch.cat(
        [torch.cat([q[32 * g : 32 * g + 32], k[16 * g : 16 * g + 16], v[16 * g : 16 * g + 16]]) for g in range(2)]
    )


def gated(w: Weights, p: str) -> None:
    w[p + "f.both.weight"] = torch.cat([w.pop(f"{p}f.y2.weight"), w.pop(f"{p}f.y1.weight")])


def transposed(w: Weights, p: str) -> None:
    for name in ("f.y1", "f.y3", "a.x4"):
        w[f"{p}{name}.weight"] = w[f"{p}{name}.weight"].T


def from_one(weights: Weights) -> Weights:
    out = renamed(weights)
    for n in (2, 1, 0):
        for name in [k for k in out if f"block.{n}." in k]:
            out[name.replace(f"block.{n}.", f"block.{n + 1}.")] = out.pop(name)
    return out | {"trunk.rotary_emb.inv_freq": torch.arange(3.0)}


CHANGES = {
    "renamed": renamed,
    "stacked": per_layer(stacked),
    "grouped": per_layer(grouped),
    "gate and up": per_layer(gated),
    "transposed": per_layer(transposed),
    "layers from one": from_one,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, whose norms vary as trained ones do, and its fine-tunes `a` and `b`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    root = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(**{k: v for k, v in CONFIG.items() if k not in ("architectures", "model_type")})
    )
    base = {k: v + 0.1 * torch.randn_like(v) if "norm" in k else v.clone() for k, v in model.state_dict().items()}
    for name, spread in (("base", 0.0), ("a", 0.01), ("b", 0.01)):
        model.load_state_dict({k: v + spread * torch.randn_like(v) for k, v in base.items()})
        model.save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def odd(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model `a` in each odd layout."""
    root = tmp_path_factory.mktemp("odd")
    weights = load_file(models / "a" / "model.safetensors")
    for name, change in CHANGES.items():
        (root / name).mkdir()
        save_file(
            {k: v.contiguous() for k, v in change(weights).items()}, root / name / "model.safetensors", {"format": "pt"}
        )
        (root / name / "config.json").write_text(json.dumps({"model_type": "odd", "architectures": ["OddForCausalLM"]}))
    return root


@pytest.mark.parametrize("name", CHANGES)
def test_the_mapping_is_found(name: str, odd: Path, models: Path) -> None:
    base, other = open_model(str(models / "base")), open_model(str(odd / name))
    proposal = propose_mapping(base, other)
    assert proposal.sound, (proposal.missing, proposal.left_over, [m.text for m in proposal.doubtful])
    ours, reference = fit_to(base, other, accept=True).checkpoint, open_model(str(models / "a")).checkpoint
    assert ours.tensors == reference.tensors
    assert all(torch.equal(read_tensor(ours, n), read_tensor(reference, n)) for n in reference.tensors)


def test_parts_of_what_the_base_keeps_in_one(odd: Path, models: Path, tmp_path: Path) -> None:
    """The other way round: the base is the odd one, and fused."""
    weights = load_file(models / "base" / "model.safetensors")
    save_file({k: v.contiguous() for k, v in CHANGES["gate and up"](weights).items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "odd"}))
    base, other = open_model(str(tmp_path)), open_model(str(models / "a"))
    ours, reference = fit_to(base, other, accept=True).checkpoint, open_model(str(odd / "gate and up")).checkpoint
    assert {n: i.shape for n, i in ours.tensors.items()} == {n: i.shape for n, i in reference.tensors.items()}
    assert all(torch.equal(read_tensor(ours, n), read_tensor(reference, n)) for n in reference.tensors)


def recipe(models: Path, other: Path, folder: Path) -> Path:
    entries = [{"model": str(m), "parameters": {"weight": 0.5, "density": 0.5}} for m in (other, models / "b")]
    content = {"merge_method": "ties", "base_model": str(models / "base"), "models": entries, "dtype": "float32"}
    (folder / "recipe.yml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yml"


def test_merge_asks_then_accepts(odd: Path, models: Path, tmp_path: Path) -> None:
    path = recipe(models, odd / "grouped", tmp_path)
    refused = weightsmith_process("merge", path, tmp_path / "out")
    assert refused.returncode == 2 and "--accept-mapping" in refused.stderr and not (tmp_path / "out").exists()
    done = weightsmith_process("merge", path, tmp_path / "out", "--accept-mapping")
    assert done.returncode == 0, done.stderr
    assert "names of no known layout; mapped by its values" in done.stderr
    weightsmith.merge(recipe(models, models / "a", tmp_path), tmp_path / "plain")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tmp_path / "plain" / "model.safetensors"
    ).read_bytes()


def test_a_mapping_file(odd: Path, models: Path, tmp_path: Path) -> None:
    process = weightsmith_process("inspect", models / "base", odd / "stacked", "--save-mapping", tmp_path / "map.json")
    assert process.returncode == 3, process.stderr
    assert "model.layers.{n}.self_attn.q_proj.weight <- trunk.block.{n}.a.all.weight rows 32 to 96" in process.stdout
    assert "--accept-mapping" in process.stdout
    path = recipe(models, odd / "stacked", tmp_path)
    done = weightsmith_process(
        "merge", path, tmp_path / "out", "--mapping", f"{odd / 'stacked'}={tmp_path / 'map.json'}"
    )
    assert done.returncode == 0, done.stderr
    done = weightsmith_process(
        "unify", odd / "stacked", tmp_path / "unified", "--like", models / "base", "--mapping", tmp_path / "map.json"
    )
    assert done.returncode == 0, done.stderr
    ours, reference = (load_file(f / "model.safetensors") for f in (tmp_path / "unified", models / "a"))
    assert ours.keys() == reference.keys() and all(torch.equal(ours[k], reference[k]) for k in ours)
    assert json.loads((tmp_path / "unified" / "config.json").read_text())["model_type"] == "llama"
    (tmp_path / "map.json").write_text('{"tensors": [["a"]]}')
    done = weightsmith_process(
        "merge", path, tmp_path / "bad", "--mapping", f"{odd / 'stacked'}={tmp_path / 'map.json'}"
    )
    assert done.returncode == 2 and "map.json: not a mapping" in done.stderr and len(stderr_lines(done)) == 1


def test_a_stranger_is_not_accepted(odd: Path, models: Path, tmp_path: Path) -> None:
    torch.manual_seed(9)
    weights = {k: torch.randn_like(v) for k, v in load_file(odd / "renamed" / "model.safetensors").items()}
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(weightsmith.errors.CheckpointError, match=r"can be trusted: .*unlike the base"):
        fit_to(open_model(str(models / "base")), open_model(str(tmp_path)), accept=True)


def test_an_architecture_released_tomorrow_needs_no_scheme(odd: Path, models: Path, tmp_path: Path) -> None:
    """Same names and shapes: merged as they are, gradients over the layers included."""
    other = tmp_path / "b"
    other.mkdir()
    save_file(renamed(load_file(models / "b" / "model.safetensors")), other / "model.safetensors", {"format": "pt"})
    (other / "config.json").write_text(json.dumps({"model_type": "odd"}))
    entries = [
        {"model": str(odd / "renamed"), "parameters": {"weight": [0.0, 1.0]}},
        {"model": str(other), "parameters": {"weight": [1.0, 0.0]}},
    ]
    (tmp_path / "r.yml").write_text(yaml.safe_dump({"merge_method": "linear", "models": entries, "dtype": "float32"}))
    done = weightsmith_process("merge", tmp_path / "r.yml", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    merged, a, b = (load_file(f / "model.safetensors") for f in (tmp_path / "out", odd / "renamed", other))
    for name, expected in (("trunk.block.0.f.y1.weight", b), ("trunk.block.2.f.y1.weight", a)):
        assert torch.allclose(merged[name], expected[name], atol=1e-6)
    middle = "trunk.block.1.f.y1.weight"
    assert torch.allclose(merged[middle], (a[middle] + b[middle]) / 2, atol=1e-6)
