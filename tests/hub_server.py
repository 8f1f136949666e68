"""A server on this machine that answers as the Hugging Face hub does; huggingface_hub's own client asks it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


@dataclass
class Hub:
    """`folders`: repository -> the folder that holds its files; `sent`: bytes of files that were sent, by name.

    `pushed`: repository -> name -> content that was uploaded; `private`: repository -> whether it was made so;
    `objects`: large files by their SHA-256; `received`: how often each came. `failures`: a pattern of "METHOD path" ->
    the statuses with which the next requests are answered; `cut`: of the next large transfer, so many bytes arrive."""

    url: str = ""
    folders: dict[str, Path] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    pushed: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    received: dict[str, int] = field(default_factory=dict)
    failures: dict[str, list[int]] = field(default_factory=dict)
    cut: int | None = None


@contextmanager
def serving() -> Iterator[Hub]:
    """While it lasts, the server answers."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield hub
    server.shutdown()


def environment(hub: Hub, tmp_path: Path, **more: str) -> dict[str, str]:
    """Of a process that takes `hub` for the hub, with a cache of its own."""
    cleared = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    return (
        cleared
        | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        | more
    )


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
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

        def answer(self, value: object) -> None:
            self.reply(200, json.dumps(value).encode(), Content_Type="application/json")

        def handle_request(self) -> None:
            path = unquote(urlsplit(self.path).path)
            for pattern, statuses in hub.failures.items():
                if statuses and re.search(pattern, f"{self.command} {path}"):
                    status = statuses.pop(0)
                    self.close_connection = True  # what it sends is not read
                    return self.reply(status, b'{"error":"so it is"}', X_Error_Message="so it is", Retry_After="1")
            if self.command == "PUT" and (match := re.fullmatch(r"/objects/(\w+)", path)):
                return self.receive(match[1])
            length = int(self.headers.get("Content-Length") or 0)
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                asked = b"".join(self.chunks())
            else:
                asked = self.rfile.read(length) if length else b""
            for pattern, method in (
                (r"/api/repos/create", self.create),
                (r"/api/validate-yaml", self.validate),
                (r"/api/models/([^/]+/[^/]+)/preupload/[^/]+", self.preupload),
                (r"/api/models/([^/]+/[^/]+)/commit/[^/]+", self.commit),
                (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.batch),
                (r"/api/models/([^/]+/[^/]+)(/.*)?", self.about),
                (r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.resolve),
            ):
                if match := re.fullmatch(pattern, path):
                    return method(asked, *match.groups())
            self.reply(404, b"{}")

        def chunks(self) -> Iterator[bytes]:
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        def entry(self, path: Path) -> dict:
            oid = hashlib.sha1(path.name.encode()).hexdigest()
            return {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": oid}

        def about(self, asked: bytes, repo: str, rest: str | None) -> None:
            folder = hub.folders.get(repo)
            if folder is None:
                body = b'{"error":"Repository not found"}'
                return self.reply(404, body, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            files, rest = sorted(folder.iterdir()), rest or ""
            if rest.startswith("/revision/no-such"):
                return self.reply(404, b"{}", X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
            if rest.startswith("/paths-info/"):
                return self.answer([self.entry(file) for file in files if file.name in unquote(asked.decode())])
            if rest.startswith("/tree/"):
                return self.answer([self.entry(file) for file in files])
            siblings = [{"rfilename": file.name} for file in files]
            self.answer({"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "tags": []})

        def resolve(self, asked: bytes, repo: str, name: str) -> None:
            file = hub.folders[repo] / name if repo in hub.folders else None
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
            first, last, status = 0, len(content) - 1, 200
            if asked_range := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                first, last = int(asked_range[1]), min(int(asked_range[2] or last), last)
                headers["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
                status = 206
            part = content[first : last + 1]
            if hub.cut is not None and len(part) > hub.cut:
                headers["Content_Length"] = str(len(part))
                part, hub.cut, self.close_connection = part[: hub.cut], None, True
            hub.sent[file.name] = hub.sent.get(file.name, 0) + len(part)
            self.reply(status, part, **headers)

        def create(self, asked: bytes) -> None:
            wanted = json.loads(asked)
            repo = f"{wanted.get('organization')}/{wanted['name']}"
            if repo in hub.pushed:
                return self.reply(409, json.dumps({"url": f"{hub.url}/{repo}", "error": "exists"}).encode())
            hub.pushed[repo], hub.private[repo] = (
                {},
                bool(wanted.get("private") or wanted.get("visibility") == "private"),
            )
            self.answer({"url": f"{hub.url}/{repo}"})

        def validate(self, asked: bytes) -> None:
            self.answer({"errors": [], "warnings": []})

        def preupload(self, asked: bytes, repo: str) -> None:
            large = (".safetensors", ".gguf", ".model")
            files = json.loads(asked)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(large) else "regular"} for f in files
            ]
            self.answer({"files": [mode | {"shouldIgnore": False} for mode in modes]})

        def batch(self, asked: bytes, repo: str) -> None:
            objects = []
            for wanted in json.loads(asked)["objects"]:
                upload = {"upload": {"href": f"{hub.url}/objects/{wanted['oid']}", "header": {}}}
                objects.append(wanted | ({} if wanted["oid"] in hub.objects else {"actions": upload}))
            self.answer({"transfer": "basic", "objects": objects})

        def receive(self, oid: str) -> None:
            length = int(self.headers["Content-Length"])
            if hub.cut is not None and length > hub.cut:
                self.rfile.read(hub.cut)
                hub.cut, self.close_connection = None, True
                self.connection.close()
                return
            content = self.rfile.read(length)
            if hashlib.sha256(content).hexdigest() != oid:
                return self.reply(400)
            hub.objects[oid] = content
            hub.received[oid] = hub.received.get(oid, 0) + 1
            self.reply(200)

        def commit(self, asked: bytes, repo: str) -> None:
            for line in map(json.loads, asked.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.pushed[repo][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.pushed[repo][value["path"]] = hub.objects[value["oid"]]
            self.answer({"success": True, "commitOid": COMMIT, "commitUrl": f"{hub.url}/{repo}/commit/{COMMIT}"})

        do_HEAD = do_GET = do_POST = do_PUT = handle_request

    return Handler
