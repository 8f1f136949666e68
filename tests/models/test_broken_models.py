"""Models that cannot be true: one message with model, tensor and remedy, exit 2, from every command that opens them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from tests.conftest import stderr_lines, weightsmith_process


def weights_of(folder: Path, change: Callable[[dict], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors", {"format": "pt"})


def configure(folder: Path, **more: object) -> None:
    config_values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config_values | more))


def listed_twice(folder: Path) -> None:
    """The same name a second time in the header, which most JSON readers pass over in silence."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    entry = json.dumps({"model.norm.weight": header["model.norm.weight"]})[1:-1]
    text = (json.dumps(header)[:-1] + f", {entry}}}").encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def sharded(folder: Path, index: dict[str, str] | None = None) -> None:
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({n: weights[n] for n in part}, folder / file, {"format": "pt"})
    weight_map = {n: file for file, part in halves.items() for n in part} | (index or {})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()


def missing_shard(folder: Path) -> None:
    sharded(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def in_two_shards(folder: Path) -> None:
    sharded(folder)
    first, second = (load_file(folder / f"model-0000{n}-of-00002.safetensors") for n in (1, 2))
    save_file(
        second | {"lm_head.weight": first.get("lm_head.weight", second.get("lm_head.weight"))},
        folder / "model-00002-of-00002.safetensors",
    )
    save_file(
        first | {"lm_head.weight": first.get("lm_head.weight", second.get("lm_head.weight"))},
        folder / "model-00001-of-00002.safetensors",
    )


def drop_layer(folder: Path) -> None:
    weights_of(folder, lambda w: [w.pop(k) for k in list(w) if ".layers.1." in k])


def add_old_layout(folder: Path) -> None:
    weights_of(
        folder,
        lambda w: w.update({"layers.0.attention.wq.weight": w["model.layers.0.self_attn.q_proj.weight"].clone()}),
    )
    configure(folder, n_layers=3)


BROKEN: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "missing shard": (
        missing_shard,
        ("names the shard model-00002-of-00002.safetensors, which is not there", "download it"),
    ),
    "index naming no file": (
        lambda f: sharded(f, {"extra.weight": "model-00009.safetensors"}),
        ("model-00009.safetensors, which is not there", "download it"),
    ),
    "index naming no tensor": (
        lambda f: sharded(f, {"extra.weight": "model-00001-of-00002.safetensors"}),
        ("lists tensor 'extra.weight'", "download the model again"),
    ),
    "index leaving the folder": (
        lambda f: sharded(f, {"extra.weight": "../x.safetensors"}),
        ("'../x.safetensors' is not the name of a file",),
    ),
    "listed twice in a header": (listed_twice, ("the key 'model.norm.weight' is listed twice", "download it again")),
    "listed twice in shards": (in_two_shards, ("tensor 'lm_head.weight' is in", "remove the file")),
    "a layer in the middle": (drop_layer, ("layer 1 is missing", "download the model again")),
    "two layouts": (add_old_layout, ("has no place in the layout llama/meta", "remove the files of one")),
    "another hidden size": (
        lambda f: configure(f, hidden_size=128),
        ("says 128 (hidden_size), tensor 'model.embed_tokens.weight' is [128, 64]", "are of two models"),
    ),
    "another intermediate size": (
        lambda f: configure(f, intermediate_size=100),
        ("says 100 (intermediate_size)", "mlp."),
    ),
    "another vocabulary": (lambda f: configure(f, vocab_size=100), ("says 100 (vocab_size)",)),
    "other heads": (lambda f: configure(f, num_key_value_heads=4), ("kv_heads*head_dim", "self_attn.k_proj.weight")),
    "another depth": (lambda f: configure(f, num_hidden_layers=7), ("says 7 layers, the weights have 3",)),
    "no config": (lambda f: (f / "config.json").unlink(), ("config.json: not there",)),
    "config no JSON": (
        lambda f: (f / "config.json").write_text("{"),
        ("config.json: not valid JSON", "download it again"),
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ("no weights in it",)),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken(case: str, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "a", tmp_path / "bad")
    damage, messages = BROKEN[case]
    damage(tmp_path / "bad")
    entries = [{"model": str(tmp_path / "bad"), "parameters": {"weight": 1.0}}]
    content = {"merge_method": "task_arithmetic", "base_model": str(models / "base"), "models": entries}
    (tmp_path / "r.yml").write_text(yaml.safe_dump(content))
    before = sorted(p.name for p in tmp_path.rglob("*"))
    for command in (
        ("inspect", models / "base", tmp_path / "bad"),
        ("unify", tmp_path / "bad", tmp_path / "out"),
        ("merge", tmp_path / "r.yml", tmp_path / "out"),
    ):
        done = weightsmith_process(*command)
        assert done.returncode == 2, (command, done.stdout, done.stderr)
        assert len(stderr_lines(done)) == 1 and "Traceback" not in done.stderr
        for part in (str(tmp_path / "bad"), *messages):
            assert part in done.stderr, done.stderr
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_a_single_file_comes_before_an_index_that_was_left_beside_it(models: Path, tmp_path: Path) -> None:
    """As in transformers; the index is of the shards that were there before."""
    shutil.copytree(models / "a", tmp_path / "m")
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (tmp_path / "m/model.safetensors.index.json").write_text(json.dumps(index))
    shown = weightsmith_process("inspect", models / "a", tmp_path / "m")
    assert shown.returncode == 0, shown.stderr
    assert "model.safetensors is read, as transformers does; model.safetensors.index.json" in shown.stdout
    assert "2 models can be merged" in shown.stdout
