"""The server of the page: 127.0.0.1 alone, a token for every request, and no path but those of the page."""

from __future__ import annotations

import hmac
import importlib.util
import os
import re
import secrets
import socket
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from weightsmith.errors import OutputError, WeightsmithError
from weightsmith.files.folder_lock import FolderInUse, folder_lock
from weightsmith.model_card.provenance import listed
from weightsmith.page.allowed_folders import AllowedFolders
from weightsmith.page.page_actions import PageActions
from weightsmith.page.run_folders import find_run
from weightsmith.page.run_queue import RunQueue

if TYPE_CHECKING:
    from fastapi import FastAPI

HOST, PORT = "127.0.0.1", 7860
_COOKIE = "weightsmith"
_PATHS = (
    re.compile(  # what Gradio's page itself asks for; not its ways to read files, upload, or call functions by name
        r"/|/config|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|svelte|static)/[^?]*"
        r"|/gradio_api/(queue/(join|data)|heartbeat/[\w-]+|startup-events|app_id|cancel|reset|info)/?"
        r"|/runs/[\w.-]+/(report|files/.+)"
    )
)
_PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"


def serve_page(
    folders: list[Path], runs: Path, *, port: int = PORT, on_ready: Callable[[str], None] = lambda address: None
) -> None:
    """Serve the page until Ctrl-C; `on_ready` gets its address, with the token. Runs go on when it ends. Raises
    OutputError where another page has `runs`, or the port is taken."""
    if missing := [name for name in ("gradio", "fastapi", "uvicorn") if importlib.util.find_spec(name) is None]:
        raise WeightsmithError(f"the page needs {listed(missing)}: `pip install 'weightsmith[ui]'`")
    for folder in folders:
        if not folder.is_dir():
            raise WeightsmithError(f"{folder}: no such folder")
    with _listen(port) as listening:
        try:
            runs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{runs}: cannot be created: {error.strerror}", path=runs) from error
        allowed = AllowedFolders(folders, home=runs)
        os.chdir(allowed.home)  # relative paths mean the same here as in a run
        try:
            with folder_lock(allowed.home), RunQueue(allowed.home) as queue:
                _serve(PageActions(allowed, queue), listening, on_ready)
        except FolderInUse:
            raise OutputError(
                f"{runs}: another page keeps its runs there; choose another folder with --runs", path=runs
            ) from None


def _serve(actions: PageActions, listening: socket.socket, on_ready: Callable[[str], None]) -> None:
    import uvicorn

    token, host = secrets.token_urlsafe(24), f"{HOST}:{listening.getsockname()[1]}"
    app = guarded(page_app(actions), token, host)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=1))
    on_ready(f"http://{host}/?token={token}")
    server.run(sockets=[listening])


def page_app(actions: PageActions) -> FastAPI:
    """The page with its reports and files, not guarded yet."""
    import gradio as gr
    from fastapi import FastAPI, HTTPException
    from fastapi.responses import FileResponse

    from weightsmith.page.page_layout import build_page, page_theme

    app = FastAPI(openapi_url=None)

    @app.get("/runs/{name}/report")
    def report(name: str) -> FileResponse:
        run = find_run(actions.queue.runs, name)
        if run is None or run.report is None or not actions.allowed.holds(run.report):
            raise HTTPException(404)
        return FileResponse(run.report, headers={"Content-Security-Policy": _REPORT_POLICY})

    @app.get("/runs/{name}/files/{path:path}")
    def file(name: str, path: str) -> FileResponse:
        run = find_run(actions.queue.runs, name)
        listed = {one.as_posix() for one in run.results()} if run else set()
        if run is None or path not in listed:
            raise HTTPException(404)
        return FileResponse(run.folder / path, filename=Path(path).name, media_type="application/octet-stream")

    css = (Path(__file__).parent / "templates" / "page.css").read_text(encoding="utf-8")
    return gr.mount_gradio_app(
        app,
        build_page(actions),
        path="/",
        server_name=HOST,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        show_error=True,
        allowed_paths=[],
        max_file_size=0,
        theme=page_theme(),
        css=css,
    )


def guarded(app: Any, token: str, host: str) -> Any:
    """`app`, asked only by who has the token, as this host, for the page's own paths. The token comes in the first
    address, and is kept in a cookie that no other site's requests carry."""

    async def guard(scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if headers.get(b"host") not in (host, host.replace(HOST, "localhost")):
            await _answer(send, 403, "This page is asked for by its own address only.")
            return
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and given and hmac.compare_digest(given.encode(), token.encode()):
            cookie = f"{_COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"
            await _answer(send, 303, "", [(b"location", b"/"), (b"set-cookie", cookie.encode())])
            return
        if not hmac.compare_digest(_cookie(headers.get(b"cookie", "")).encode(), token.encode()):
            await _answer(send, 403, "Open the address that `weightsmith ui` printed: it holds this page's token.")
            return
        origin = headers.get(b"origin")
        if origin is not None and origin.partition("://")[2] != headers[b"host"]:
            await _answer(send, 403, "Another site's page may not ask this one.")
            return
        if not _PATHS.fullmatch(scope["path"]):
            await _answer(send, 404, "Not found.")
            return

        async def with_policy(message: dict) -> None:
            if message["type"] == "http.response.start":
                named = {name.lower() for name, _ in message["headers"]}
                added = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
                if b"content-security-policy" not in named:
                    added.append((b"content-security-policy", _PAGE_POLICY.encode()))
                message = message | {"headers": [*message["headers"], *added]}
            await send(message)

        await app(scope, receive, with_policy)

    return guard


def _cookie(header: str) -> str:
    try:
        kept = SimpleCookie(header).get(_COOKIE)
    except CookieError:
        return ""
    return kept.value if kept else ""


async def _answer(send: Any, status: int, text: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    plain = [(b"content-type", b"text/plain; charset=utf-8"), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": plain})
    await send({"type": "http.response.body", "body": text.encode()})


def _listen(port: int) -> socket.socket:
    listening = socket.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
    except OSError as error:
        listening.close()
        raise OutputError(
            f"port {port} of {HOST}: {error.strerror}; choose another with --port, 0 for any that is free"
        ) from error
    return listening
