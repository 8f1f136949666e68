"""The questions of a task of the suite `quick`, from this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load(name: str, **metadata: Any) -> dict[str, Any]:
    """lm-evaluation-harness calls it with the task's `dataset_kwargs` and metadata."""
    import json

    from datasets import Dataset

    lines = (Path(__file__).parent / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return {"test": Dataset.from_list([json.loads(line) for line in lines])}
