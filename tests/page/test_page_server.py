"""Nobody without the token, no other host, no other site, no path that is not the page's."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gradio")
from starlette.testclient import TestClient

from weightsmith.errors import OutputError, WeightsmithError
from weightsmith.page.allowed_folders import AllowedFolders
from weightsmith.page.page_actions import PageActions
from weightsmith.page.page_server import guarded, page_app, serve_page
from weightsmith.page.run_folders import RunFolder
from weightsmith.page.run_queue import RunQueue

TOKEN, HOST = "a-token", "127.0.0.1:7860"
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    (root / "models").mkdir()
    (root / "secret.txt").write_text("secret")
    (root / "runs").mkdir()
    run = RunFolder.create(root / "runs", "first", f"# {SCRIPT}\n")
    run.set_state("failed", SCRIPT)
    run.log_file.write_text(f"{SCRIPT}\n")
    (run.folder / "report.html").write_text(f"<h1>report</h1>{SCRIPT}")
    (run.folder / "merged").mkdir()
    (run.folder / "merged" / "a b.gguf").write_bytes(b"weights")
    (run.folder / "merged" / "link").symlink_to(root / "secret.txt")
    return root


@pytest.fixture(scope="module")
def actions(folder: Path) -> PageActions:
    return PageActions(AllowedFolders([folder / "models"], home=folder / "runs"), RunQueue(folder / "runs"))


@pytest.fixture(scope="module")
def client(actions: PageActions) -> Iterator[TestClient]:
    with TestClient(
        guarded(page_app(actions), TOKEN, HOST), base_url=f"http://{HOST}", follow_redirects=False
    ) as client:
        yield client


KNOWN = {"cookie": f"weightsmith={TOKEN}"}


@pytest.mark.parametrize("path", ["/", "/config", "/runs/first/report", "/gradio_api/queue/data", "/?token=wrong"])
def test_without_the_token(client: TestClient, path: str) -> None:
    for headers in ({}, {"cookie": "weightsmith=wrong"}, {"cookie": "weightsmith=ä".encode()}):
        client.cookies.clear()
        answer = client.get(path, headers=headers)
        assert answer.status_code == 403 and "token" in answer.text


def test_the_address_that_is_printed(client: TestClient) -> None:
    answer = client.get(f"/?token={TOKEN}")
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    assert answer.headers["set-cookie"] == f"weightsmith={TOKEN}; HttpOnly; SameSite=Strict; Path=/"
    client.cookies.clear()
    page = client.get("/", headers=KNOWN)
    assert page.status_code == 200 and "connect-src 'self'" in page.headers["content-security-policy"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1", "127.0.0.1:1"])
def test_another_host_name(client: TestClient, host: str) -> None:
    """A name of somebody else's that leads to this machine."""
    assert client.get("/", headers=KNOWN | {"host": host}).status_code == 403


def test_another_site(client: TestClient) -> None:
    for origin in ("http://evil.example", "null"):
        answer = client.post("/gradio_api/queue/join", headers=KNOWN | {"origin": origin}, json={})
        assert answer.status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file={secret}",
        "/file={secret}",
        "/gradio_api/file/{secret}",
        "/gradio_api/upload",
        "/gradio_api/proxy=http://example.com",
        "/gradio_api/run/inspect",
        "/gradio_api/call/inspect",
        "/gradio_api/openapi.json",
        "/monitoring",
        "/docs",
        "/runs/first/files/../../../secret.txt",
        "/runs/first/files/..%2f..%2f..%2fsecret.txt",
        "/runs/first/files/merged/link",
        "/runs/first/files/.page/state.json",
        "/runs/first/files/{secret}",
        "/runs/../report",
        "/runs/%2e%2e/report",
        "/runs/nobody/report",
        "/static/../../../../../../../../../../../../etc/passwd",
        "/assets/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
    ],
)
def test_other_paths(client: TestClient, folder: Path, path: str) -> None:
    for answer in (
        client.get(path.format(secret=folder / "secret.txt"), headers=KNOWN),
        client.post(path, headers=KNOWN),
    ):
        assert answer.status_code in (403, 404, 405, 422), answer.status_code
        assert "secret" not in answer.text.replace("secret.txt", "") and "root:" not in answer.text


def test_reports_have_no_rights_and_files_are_downloads(client: TestClient) -> None:
    report = client.get("/runs/first/report", headers=KNOWN)
    assert report.status_code == 200 and report.headers["content-security-policy"].startswith(
        "sandbox; default-src 'none'"
    )
    file = client.get("/runs/first/files/merged/a%20b.gguf", headers=KNOWN)
    assert file.content == b"weights" and file.headers["content-disposition"].startswith("attachment")
    assert file.headers["x-content-type-options"] == "nosniff"


def test_what_others_wrote_is_escaped(actions: PageActions, folder: Path) -> None:
    from weightsmith.page.page_views import results_view, run_view

    run = RunFolder(folder / "runs" / "first")
    odd = folder / "runs" / "first" / f"{SCRIPT.replace('/', '')}.gguf"
    odd.write_bytes(b"")
    for view in (
        run_view(run),
        results_view(run),
        actions.describe(SCRIPT),
        actions.check(f"merge: {{merge_method: '{SCRIPT}', models: [{{model: a/b}}]}}"),
    ):
        assert "<script" not in view and "alert" in view
    odd.unlink()
    assert "<script" not in actions.inspect(SCRIPT, [SCRIPT], False)
    assert "<script" not in actions.start(SCRIPT, "")[1]


def test_names_of_runs(actions: PageActions, folder: Path) -> None:
    before = set((folder / "runs").iterdir())
    pipeline = "merge: {merge_method: linear, models: [{model: a/b, parameters: {weight: 1}}]}"
    for name in ("", "..", "../x", "a/b", ".page", "a" * 65, "first"):
        assert actions.start(name, pipeline)[0] is None
    assert set((folder / "runs").iterdir()) == before


def test_a_port_that_is_taken_leaves_nothing(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OutputError, match=r"choose another with --port"):
            serve_page([tmp_path], tmp_path / "runs", port=other.getsockname()[1])
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_served(tmp_path: Path) -> None:
    with pytest.raises(WeightsmithError, match="nowhere: no such folder"):
        serve_page([tmp_path / "nowhere"], tmp_path / "runs", port=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be created"):
        serve_page([tmp_path], tmp_path / "file" / "runs", port=0)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
