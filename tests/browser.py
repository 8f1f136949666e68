"""A page as Chromium shows it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

SCREENS = os.environ.get("SCREENS")  # a folder for pictures of the pages, for docs/ui.md
CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")


def shown(page: Path, scratch: Path, height: int = 1200) -> tuple[str, int]:
    """The document after scripts and layout, and how many colours a picture of it has."""
    from matplotlib.image import imread

    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={scratch / 'profile'}",
    ]
    dumped = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    shot = scratch / "page.png"
    subprocess.run(
        [*command, f"--screenshot={shot}", f"--window-size=900,{height}", page.as_uri()],
        capture_output=True,
        check=True,
        timeout=120,
    )
    pixels = imread(shot)[..., :3].reshape(-1, 3)
    return dumped.stdout, len({tuple((p * 255).astype(int)) for p in pixels[::37]})


def seen(page: Any, name: str) -> None:
    """No serious violation of what axe-core checks, light and dark; nothing wider than a phone."""
    from axe_playwright_python.sync_playwright import Axe

    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.evaluate(f"document.body.classList.toggle('dark', {str(scheme == 'dark').lower()})")
        page.wait_for_timeout(500)  # colours fade
        found = Axe().run(page).response["violations"]
        bad = [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]
        assert bad == [], f"{name}, {scheme}"
        if SCREENS:
            page.screenshot(path=f"{SCREENS}/ui-{name}-{scheme}.png")
    page.emulate_media(color_scheme="light")
    page.evaluate("document.body.classList.remove('dark')")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
    if SCREENS:
        page.screenshot(path=f"{SCREENS}/ui-{name}-phone.png")
    page.set_viewport_size({"width": 1200, "height": 900})


def report_seen(path: Path, name: str) -> None:
    """`seen` of a report, which is a file."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(path.as_uri())
        seen(page, name)
        browser.close()
