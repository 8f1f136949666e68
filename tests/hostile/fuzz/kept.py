"""Inputs that reached some place that others did not, by reader: JSON lines of base64."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
MOST, LONGEST = 300, 8192  # inputs of a reader, and bytes of one


def kept_inputs(reader: str) -> list[bytes]:
    """Those of a reader, shortest first."""
    path = CORPUS / f"{reader}.jsonl"
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return [base64.b64decode(json.loads(line)) for line in lines]


def keep_inputs(reader: str, inputs: Iterable[bytes]) -> int:
    """Write the shortest of them; returns how many."""
    chosen = sorted({content for content in inputs if len(content) <= LONGEST}, key=lambda c: (len(c), c))[:MOST]
    lines = "".join(json.dumps(base64.b64encode(content).decode()) + "\n" for content in chosen)
    (CORPUS / f"{reader}.jsonl").write_text(lines, encoding="ascii")
    return len(chosen)
