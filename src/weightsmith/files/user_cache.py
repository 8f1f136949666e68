"""The user's cache folder, for what can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """`XDG_CACHE_HOME`/weightsmith, or `~/.cache/weightsmith`. Raises RuntimeError where the user has no home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weightsmith"
