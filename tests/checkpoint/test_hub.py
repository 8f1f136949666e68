"""Hub ids, against a server on this machine that answers as the hub does; huggingface_hub's own client asks it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import stderr_lines, weightsmith_process

COMMIT = "c" * 40


@dataclass
class Hub:
    """`sent`: bytes of files that were sent, by name; `folders`: repository -> files."""

    url: str
    folders: dict[str, Path]
    sent: dict[str, int] = field(default_factory=dict)


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key.replace("_", "-"), value)
            if "Content_Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def entry(self, path: Path) -> dict:
            return {
                "type": "file",
                "path": path.name,
                "size": path.stat().st_size,
                "oid": hashlib.sha1(path.name.encode()).hexdigest(),
            }

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            length = int(self.headers.get("Content-Length") or 0)
            asked = self.rfile.read(length) if length else b""
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/.*)?", path):
                folder = hub.folders.get(match[1])
                if folder is None:
                    return self.reply(
                        404,
                        b'{"error":"Repository not found"}',
                        X_Error_Code="RepoNotFound",
                        X_Error_Message="Repository not found",
                    )
                files = sorted(folder.iterdir())
                rest = match[2] or ""
                if rest.startswith("/revision/no-such"):
                    return self.reply(404, b"{}", X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
                if rest.startswith("/paths-info/"):
                    wanted = asked.decode()
                    result = [self.entry(f) for f in files if f.name in unquote(wanted)]
                    return self.reply(200, json.dumps(result).encode(), Content_Type="application/json")
                if rest.startswith("/tree/"):
                    return self.reply(
                        200, json.dumps([self.entry(f) for f in files]).encode(), Content_Type="application/json"
                    )
                info = {
                    "id": match[1],
                    "modelId": match[1],
                    "sha": COMMIT,
                    "siblings": [{"rfilename": f.name} for f in files],
                    "tags": [],
                }
                return self.reply(200, json.dumps(info).encode(), Content_Type="application/json")
            match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
            file = hub.folders[match[1]] / match[2] if match and match[1] in hub.folders else None
            if file is None or not file.exists():
                return self.reply(404, X_Error_Code="EntryNotFound")
            content = file.read_bytes()
            headers = {
                "X_Repo_Commit": COMMIT,
                "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                "Accept_Ranges": "bytes",
            }
            if self.command == "HEAD":
                return self.reply(200, **headers, Content_Length=str(len(content)))
            if asked_range := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                first, last = int(asked_range[1]), min(int(asked_range[2] or len(content) - 1), len(content) - 1)
                part = content[first : last + 1]
                hub.sent[file.name] = hub.sent.get(file.name, 0) + len(part)
                return self.reply(206, part, **headers, Content_Range=f"bytes {first}-{last}/{len(content)}")
            hub.sent[file.name] = hub.sent.get(file.name, 0) + len(content)
            self.reply(200, content, **headers)

        do_HEAD = do_POST = do_GET

    return Handler


@pytest.fixture
def hub(models: Path, tmp_path: Path) -> Iterator[Hub]:
    result = Hub("", {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(result))
    result.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield result
    server.shutdown()


def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    import os

    cleared = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    return cleared | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


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
