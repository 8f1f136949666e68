"""The whole path in a real browser: from choosing the demo's models to the report, and a page that is closed and a
server that ends in between."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, needs_chromium, seen
from weightsmith.demo.run_demo import PACKAGE, base_model

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = needs_chromium

SECONDS = 240_000  # ms: a slow machine, not one that never ends


class Server:
    """`weightsmith ui` on the demo's models."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "weightsmith", "ui", str(base_model().parent), str(PACKAGE)]
        command += ["--runs", str(self._runs), "--port", "0", "--no-browser"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.address = re.search(r"http://\S+", self.process.stdout.readline())[0]  # type: ignore[index]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) in (0, 130)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "runs")
    yield server
    server.process.kill()
    server.process.communicate()


@pytest.fixture
def context() -> Iterator[sync_api.BrowserContext]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1200, "height": 900})
        context.set_default_timeout(SECONDS)
        yield context
        browser.close()


def choose(page: sync_api.Page, field: str, *choices: str) -> None:
    for choice in choices:
        page.click(f"#{field} input")
        page.locator(f"#{field}").get_by_role("option", name=choice, exact=True).click()
    page.keyboard.press("Escape")


def edit(page: sync_api.Page, text: str) -> None:
    """Replace the pipeline in the editor."""
    page.click("#pipeline .cm-content")
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(text)


def pipeline_in(page: sync_api.Page) -> str:
    return "\n".join(page.locator("#pipeline .cm-line").all_inner_texts())


def test_from_models_to_the_report(server: Server, context: sync_api.BrowserContext, tmp_path: Path) -> None:
    page = context.new_page()
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.address)

    # choose
    base = f"{base_model().parent.name}/{base_model().name}"
    choose(page, "base", base)
    choose(page, "models", "demo/adapters/dates (adapter)", "demo/adapters/records (adapter)")
    page.click("#inspect")
    page.wait_for_selector("#inspection table")
    assert "3 models can be merged" in page.inner_text("#inspection")
    seen(page, "models")

    # the recipe
    page.get_by_role("tab", name="2. Recipe").click()
    choose(page, "method", "task_arithmetic: Task arithmetic")
    page.wait_for_selector("#advice :text('Task arithmetic')")
    page.get_by_label("q4_k_m").uncheck()
    choose(page, "questions", "demo/data/dates.jsonl")
    page.click("#write")
    page.wait_for_selector("#verdict .ws-good")
    text = pipeline_in(page)
    assert f"{base_model().resolve()}+{PACKAGE.resolve()}/adapters/dates" in text

    # live checks, with the line
    edit(page, text.replace("merge_method: task_arithmetic", "merge_method: task_arithmetics"))
    page.wait_for_selector("#verdict .ws-problem:has-text('Line 2')")
    assert "did you mean 'task_arithmetic'?" in page.inner_text("#verdict")
    edit(page, text.replace(f"{PACKAGE.resolve()}/adapters/dates", "/etc"))
    page.wait_for_selector("#verdict .ws-problem:has-text('is not in the folders')")
    edit(page, text.replace("questions:", "limit: 4\n  questions:"))
    page.wait_for_selector("#verdict .ws-good")
    page.click("#estimate")
    page.wait_for_selector("#cost p:has-text('of memory')")
    seen(page, "recipe")

    # start; the tab is closed, and the server ends
    page.get_by_label("Name of the run").fill("dates-records")
    page.click("#start")
    page.wait_for_selector("#status progress")
    seen(page, "running")
    page.close()
    server.stop()
    server.start()

    # another tab of another server
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.address)
    page.get_by_role("tab", name="3. Runs").click()
    page.wait_for_selector("#status .ws-state-done")
    assert "merge" in page.inner_text("#status ol")
    page.wait_for_selector("#results iframe")
    report = page.frame_locator("#results iframe")
    report.locator("h1").wait_for()
    assert "dates" in report.locator("table").first.inner_text()
    seen(page, "done")
    with page.expect_download() as download:
        page.click("#results a:has-text('model.safetensors')")
    weights = tmp_path / "runs" / "dates-records" / "merged" / "model.safetensors"
    assert Path(download.value.path()).read_bytes() == weights.read_bytes()
    with context.expect_page() as opened:
        page.click("#results a:has-text('page of its own')")
    opened.value.wait_for_selector("h1")
    page.goto((tmp_path / "runs" / "dates-records" / "report.html").as_uri())  # there scripts run, axe-core's too
    seen(page, "report")

    assert errors == []
    assert {
        re.sub(r"^(https?://[^/:]+).*", r"\1", url) for url in requests if not url.startswith(("data:", "blob:"))
    } == {"http://127.0.0.1"}
    server.stop()
