"""Models of the Hugging Face hub: downloaded as data files alone, or their headers alone by range requests."""

from __future__ import annotations

from pathlib import Path


def download_model(repo: str, revision: str | None) -> Path:
    raise NotImplementedError


def mirror_headers(repo: str, revision: str | None) -> Path:
    raise NotImplementedError
