"""A page as Chromium shows it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

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
