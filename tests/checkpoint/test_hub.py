"""Hub ids, against a server on this machine that answers as the hub does; huggingface_hub's own client asks it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from tests.conftest import stderr_lines, weightsmith_process
from tests.hub_server import COMMIT, Hub, environment


def large(folder: Path, kind: str) -> Path:
    """A model of which the weights are most: 24 MB in one tensor."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50000, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "modeling.py").write_text("raise SystemExit('code of a model was run')\n")
    if kind == "bin":
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_inspect_fetches_headers_alone(hub: Hub, kind: str, tmp_path: Path) -> None:
    hub.folders["someone/model"] = large(tmp_path / "m", kind)
    hub.folders["someone/tune"] = large(tmp_path / "t", "safetensors")
    done = weightsmith_process("inspect", "someone/model", "someone/tune@main", env=environment(hub, tmp_path))
    assert done.returncode == 0, done.stderr + done.stdout
    assert "2 models can be merged" in done.stdout and "50000 rows" in done.stdout and "LlamaForCausalLM" in done.stdout
    weights = {name: count for name, count in hub.sent.items() if name.endswith((".safetensors", ".bin"))}
    assert weights and sum(weights.values()) < 700_000, hub.sent
    assert "modeling.py" not in hub.sent


def test_unify_downloads_data_files(hub: Hub, models: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for file in (models / "a").iterdir():
        (tmp_path / "m" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "m" / "modeling.py").write_text("raise SystemExit\n")
    hub.folders["someone/model"] = tmp_path / "m"
    done = weightsmith_process("unify", "someone/model", tmp_path / "out", env=environment(hub, tmp_path))
    assert done.returncode == 0, done.stderr
    ours, theirs = (load_file(f / "model.safetensors") for f in (tmp_path / "out", models / "a"))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert "modeling.py" not in hub.sent


@pytest.mark.parametrize(
    "reference,message",
    [
        ("someone/none", "no such model on the hub"),
        ("someone/model@no-such", "no such revision"),
        ("someone/gguf", "only GGUF files"),
    ],
)
def test_what_the_hub_does_not_have(hub: Hub, reference: str, message: str, models: Path, tmp_path: Path) -> None:
    hub.folders["someone/model"] = models / "a"
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "model.gguf").write_bytes(b"GGUF")
    hub.folders["someone/gguf"] = tmp_path / "g"
    done = weightsmith_process("inspect", reference, env=environment(hub, tmp_path))
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and len(stderr_lines(done)) == 1


def test_no_hub(tmp_path: Path, hub: Hub) -> None:
    offline = environment(hub, tmp_path) | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    done = weightsmith_process("inspect", "someone/model", env=offline)
    assert done.returncode == 2 and "the hub cannot be reached" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "status,message",
    [
        (401, "does not accept your token"),
        (403, "your token may not do that"),
        (429, "too many requests to the hub: run it again in 1 s"),
        (503, "the hub answers 503"),
    ],
)
def test_what_the_hub_refuses(hub: Hub, status: int, message: str, models: Path, tmp_path: Path) -> None:
    hub.folders["someone/model"] = models / "a"
    hub.failures = {"GET /api/models/": [status] * 50}
    done = weightsmith_process("inspect", "someone/model", env=environment(hub, tmp_path))
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "someone/model" in done.stderr


def test_an_interrupted_download_goes_on(hub: Hub, tmp_path: Path) -> None:
    """The client asks for the rest alone."""
    hub.folders["someone/model"] = large(tmp_path / "m", "safetensors")
    size = (tmp_path / "m" / "model.safetensors").stat().st_size
    hub.cut = 12_000_000
    done = weightsmith_process("unify", "someone/model", tmp_path / "out", env=environment(hub, tmp_path))
    assert done.returncode == 0, done.stderr
    assert hub.sent["model.safetensors"] < size + 8_000_000  # and not 12 MB more
    ours, theirs = (load_file(f / "model.safetensors") for f in (tmp_path / "out", tmp_path / "m"))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small disk")
def test_a_disk_that_fills_up(hub: Hub, tmp_path: Path) -> None:
    hub.folders["someone/model"] = large(tmp_path / "m", "safetensors")
    disk = tmp_path / "hf"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        done = weightsmith_process("unify", "someone/model", tmp_path / "out", env=environment(hub, tmp_path))
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
    assert done.returncode == 2 and "the disk is full" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


def test_a_merge_of_hub_models_names_their_commits(hub: Hub, models: Path, tmp_path: Path) -> None:
    for name in "ab":
        shutil.copytree(models / name, tmp_path / name)
        (tmp_path / name / "README.md").write_text("---\nlicense: mit\n---\n")
        hub.folders[f"someone/{name}"] = tmp_path / name
    entries = ", ".join(f"{{model: someone/{name}@main, parameters: {{weight: 0.5}}}}" for name in "ab")
    (tmp_path / "r.yml").write_text(f"merge_method: linear\nmodels: [{entries}]\n")
    done = weightsmith_process("merge", tmp_path / "r.yml", tmp_path / "out", env=environment(hub, tmp_path))
    assert done.returncode == 0, done.stderr
    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.base_model == ["someone/a", "someone/b"] and card.data.license == "mit"
    assert f"commit {COMMIT}" in card.text and "model: someone/a@main" in card.text
