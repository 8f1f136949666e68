"""Methods of matrices through the engine: fused weights and experts taken apart, embeddings and vectors, what is said
beforehand, bytes whatever the threads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file

import weightsmith as ws
from tests.conftest import weightsmith_process
from tests.engine.test_experts import save_fused, save_moe
from tests.methods.test_matrices import merged, tsv_m


def recipe_of(base: Path, *tuned: Path, method: str = "tsv_m", **more) -> dict:
    models = [{"model": str(path)} for path in tuned]
    return {"merge_method": method, "base_model": str(base), "models": models, "dtype": "float32"} | more


def deltas_of(name: str, base: Path, *tuned: Path) -> torch.Tensor:
    first, *others = (load_file(path / "model.safetensors")[name].double() for path in (base, *tuned))
    return torch.stack([other - first for other in others])


def change(result: dict[str, torch.Tensor], base: Path, name: str) -> torch.Tensor:
    return result[name].double() - load_file(base / "model.safetensors")[name].double()


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((actual - expected).norm()) <= 1e-3 * float(expected.norm())


def test_matrices_embeddings_and_vectors(models: Path) -> None:
    base, a, b = (models / name for name in ("base", "a", "b"))
    result = ws.merge(recipe_of(base, a, b))
    up = "model.layers.1.mlp.up_proj.weight"
    assert_close(change(result, base, up), tsv_m(deltas_of(up, base, a, b)))
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"):
        assert_close(change(result, base, name), deltas_of(name, base, a, b).mean(0))
    kept = ws.merge(recipe_of(base, a, b, parameters={"embeddings": "base", "vectors": "sum", "lambda": 0.5}))
    assert torch.equal(kept["lm_head.weight"], load_file(base / "model.safetensors")["lm_head.weight"])
    assert_close(change(kept, base, "model.norm.weight"), 0.5 * deltas_of("model.norm.weight", base, a, b).sum(0))
    assert_close(change(kept, base, up), 0.5 * tsv_m(deltas_of(up, base, a, b)))
    whole = ws.merge(recipe_of(base, a, b, parameters={"embeddings": "matrix"}))
    assert_close(change(whole, base, "lm_head.weight"), tsv_m(deltas_of("lm_head.weight", base, a, b)))


def test_query_key_and_value_are_merged_apart(tmp_path: Path) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    paths = [tmp_path / name for name in ("base", "a", "b")]
    for seed, path in enumerate(paths):
        torch.manual_seed(seed)
        transformers.Phi3ForCausalLM(transformers.Phi3Config(**sizes)).save_pretrained(path)
    result = ws.merge(recipe_of(*paths))
    for name, parts in (
        ("model.layers.0.self_attn.qkv_proj.weight", (32, 16, 16)),
        ("model.layers.0.mlp.gate_up_proj.weight", (48, 48)),
    ):
        expected = torch.cat([tsv_m(part) for part in deltas_of(name, *paths).split(parts, 1)])
        assert_close(change(result, paths[0], name), expected)


def test_gpt2_s_weights_are_turned(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("base", "a", "b")]
    for seed, path in enumerate(paths):
        torch.manual_seed(seed)
        config = transformers.GPT2Config(vocab_size=64, n_positions=16, n_embd=24, n_layer=1, n_head=2)
        transformers.GPT2LMHeadModel(config).save_pretrained(path)
    result = ws.merge(recipe_of(*paths, method="swudi", parameters={"t": 30}))
    name = "transformer.h.0.attn.c_attn.weight"
    parts = deltas_of(name, *paths).mT.contiguous().split((24, 24, 24), 1)
    expected = torch.cat([merged("swudi", part, t=30.0) for part in parts])
    assert_close(change(result, paths[0], name).T, expected)


@pytest.mark.parametrize("transposed", [False, True])
def test_each_expert_is_a_matrix_of_its_own(transposed: bool, tmp_path: Path) -> None:
    apart, joined = [], []
    for seed, name in enumerate(("base", "a", "b")):
        save_moe(tmp_path / name, seed)
        save_fused(tmp_path / name, tmp_path / f"{name}-fused", transposed=transposed)
        apart.append(tmp_path / name)
        joined.append(tmp_path / f"{name}-fused")
    by_matrix, by_tensor = ws.merge(recipe_of(*apart)), ws.merge(recipe_of(*joined))
    name = "model.layers.0.mlp.experts.2.gate_proj.weight"
    assert_close(change(by_matrix, apart[0], name), tsv_m(deltas_of(name, *apart)))
    stack = by_tensor["model.layers.0.mlp.experts.gate_up_proj"][2]
    gate = (stack.T if transposed else stack)[: by_matrix[name].shape[0]]
    torch.testing.assert_close(gate, by_matrix[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["tsv_m", "iso_cts", "aswudi"])
def test_same_bytes_whatever_the_threads(method: str, models: Path, tmp_path: Path) -> None:
    recipe = recipe_of(models / "base", models / "a", models / "b", models / "c", method=method)
    for threads in (1, 2):
        ws.merge(recipe, tmp_path / str(threads), threads=threads)
    one, two = ((tmp_path / str(threads) / "model.safetensors").read_bytes() for threads in (1, 2))
    assert one == two


def test_what_it_takes_is_said_beforehand(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yml"
    path.write_text(yaml.safe_dump(recipe_of(models / "base", models / "a", models / "b")))
    done = weightsmith_process("merge", path, tmp_path / "out", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "matrices are held whole" in done.stdout and "embeddings: mean, vectors: mean" in done.stdout
    summary = weightsmith_process("merge", path, tmp_path / "out")
    assert "embeddings: mean, vectors: mean" in summary.stdout
