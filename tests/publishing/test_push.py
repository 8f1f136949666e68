"""Pushes, to a server on this machine that answers as the hub does; huggingface_hub's own client speaks to it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import weightsmith as ws
from tests.conftest import stderr_lines, weightsmith_process
from tests.hub_server import Hub, environment
from weightsmith.publishing.push_files import files_to_push

REPO = "me/my-merge"


@pytest.fixture(scope="module")
def run_folder(chat_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, with a merged model and two GGUF files."""
    root = tmp_path_factory.mktemp("pushed")
    entries = [{"model": str(chat_models / n), "parameters": {"weight": 0.5, "density": 0.5}} for n in "ab"]
    merge = {"merge_method": "ties", "base_model": str(chat_models / "base"), "models": entries, "dtype": "bfloat16"}
    (root / "pipeline.yml").write_text(json.dumps({"merge": merge, "export": ["q8_0"], "report": {}}))
    ws.run(root / "pipeline.yml", root / "out")
    return root / "out"


def push(hub: Hub, tmp_path: Path, *arguments: object, token: str | None = "hf_x"):
    more = {"HF_TOKEN": token} if token else {}
    return weightsmith_process("push", *arguments, env=environment(hub, tmp_path, **more))


def test_a_run_becomes_one_model(hub: Hub, run_folder: Path, tmp_path: Path) -> None:
    done = push(hub, tmp_path, run_folder, REPO, "--private")
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/{REPO}: " in done.stdout and hub.private == {REPO: True}
    pushed = hub.pushed[REPO]
    assert {"README.md", "model.safetensors", "config.json", "tokenizer.json", "provenance.json"} <= pushed.keys()
    assert {"merged-f16.gguf", "merged-q8_0.gguf", "Modelfile", "template", "params"} <= pushed.keys()
    for name in ("model.safetensors", "config.json"):
        assert pushed[name] == (run_folder / "merged" / name).read_bytes()
    assert pushed["merged-q8_0.gguf"] == (run_folder / "gguf/merged-q8_0.gguf").read_bytes()
    card = ModelCard(pushed["README.md"].decode())
    assert card.data.to_dict()["base_model_relation"] == "merge" and f'model_id = "{REPO}"' in card.content


def test_nothing_tells_of_this_machine(hub: Hub, run_folder: Path, chat_models: Path, tmp_path: Path) -> None:
    push(hub, tmp_path, run_folder, REPO)
    for name, content in hub.pushed[REPO].items():
        assert str(chat_models).encode() not in content and str(run_folder).encode() not in content, name
    assert not {"manifest.json", "checksums.json"} & hub.pushed[REPO].keys()
    assert b"base_model: base" in hub.pushed[REPO]["merge_recipe.yml"]


def test_a_dry_run_sends_nothing(hub: Hub, run_folder: Path, tmp_path: Path) -> None:
    done = push(hub, tmp_path, run_folder, REPO, "--dry-run", "--type", "q8_0", token=None)
    assert done.returncode == 0, done.stderr
    assert not hub.pushed and f"{REPO}: " in done.stdout and "would be uploaded" in done.stdout
    assert "merged-f16.gguf: stays here, it is of another type" in done.stdout
    assert "manifest.json: stays here" in done.stdout and "merged-q8_0.gguf: " in done.stdout


def test_an_interrupted_push_goes_on(hub: Hub, run_folder: Path, tmp_path: Path) -> None:
    """What is whole on the other side is not sent again."""
    hub.failures = {r"POST .*/commit/": [500] * 10}
    first = push(hub, tmp_path, run_folder, REPO)
    assert first.returncode == 2 and "run it again later, which takes what is finished" in first.stderr
    assert len(hub.objects) == 3 and not hub.pushed[REPO]
    hub.failures.clear()
    assert push(hub, tmp_path, run_folder, REPO).returncode == 0
    assert set(hub.received.values()) == {1} and "model.safetensors" in hub.pushed[REPO]


def test_a_connection_that_breaks(hub: Hub, run_folder: Path, tmp_path: Path) -> None:
    hub.cut = 1_000_000
    done = push(hub, tmp_path, run_folder, REPO)
    assert done.returncode == 0, done.stderr  # the client tries again
    content = (run_folder / "merged/model.safetensors").read_bytes()
    assert hub.pushed[REPO]["model.safetensors"] == content
    assert hub.received[hashlib.sha256(content).hexdigest()] == 1


@pytest.mark.parametrize(
    "status,message",
    [
        (401, "hf auth login"),
        (403, "your token may not do that (so it is): make one that may write there"),
        (404, "the hub has nothing there"),
        (429, "too many requests to the hub: run it again in 1 s"),
    ],
)
@pytest.mark.parametrize("where", ["POST /api/repos/create", "POST .*/preupload/"])
def test_what_the_hub_refuses(
    hub: Hub, status: int, message: str, where: str, run_folder: Path, tmp_path: Path
) -> None:
    hub.failures = {where: [status] * 50}
    done = push(hub, tmp_path, run_folder / "merged", REPO)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    (said,) = [line for line in stderr_lines(done) if line.startswith("weightsmith:")]
    assert message in said and REPO in said


def test_without_a_token(hub: Hub, run_folder: Path, tmp_path: Path) -> None:
    done = push(hub, tmp_path, run_folder / "merged", REPO, token=None)
    assert done.returncode == 2 and "there is no token of the hub here: run `hf auth login`" in done.stderr


@pytest.mark.parametrize("repo", ["me", "me/", "me/a/b", "../x", "me/a..b", "me/<script>", "-/x y"])
def test_names_that_the_hub_has_not(repo: str, run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ws.OutputError, match="is not the name of a model on the hub"):
        ws.push(run_folder, repo, dry_run=True)


def test_folders_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ws.OutputError, match="no such folder"):
        ws.push(tmp_path / "none", REPO)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ws.OutputError, match="holds no model to push"):
        ws.push(tmp_path, REPO)


def test_only_what_belongs_to_a_model(run_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "merged"
    shutil.copytree(run_folder / "merged", folder)
    (folder / "modeling.py").write_text("import os\n")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    (folder / ".env").write_text("HF_TOKEN=hf_secret\n")
    (folder / ".cache").mkdir()
    (folder / ".cache/x.json").write_text("{}")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": str(Path.cwd() / "base")}))
    files = files_to_push(folder, REPO)
    assert not {"modeling.py", "pytorch_model.bin", ".env", ".cache/x.json"} & files.files.keys()
    assert files.left_out["modeling.py"] == "is no file of a model that weightsmith writes"
    assert files.warnings == (f"config.json names {Path.cwd()}, which everybody will see",)


def test_a_link_out_of_the_folder_is_not_followed(run_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "merged"
    shutil.copytree(run_folder / "merged", folder)
    (tmp_path / "secret.json").write_text("{}")
    (folder / "extra.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(ws.WeightsmithError, match=r"extra\.json"):
        files_to_push(folder, REPO)


def test_an_edited_card_goes_as_it_is(run_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "merged"
    shutil.copytree(run_folder / "merged", folder)
    (folder / "README.md").write_text('# Mine\nmodel_id = "."  # this folder, or its id on the hub\n')
    assert files_to_push(folder, REPO).texts["README.md"] == (folder / "README.md").read_text()
