"""Evaluation data: questions with one right answer (JSONL), and plain text for perplexity."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from weightsmith.errors import EvaluationError


@dataclass(frozen=True)
class Questions:
    """Scored by exact match of the greedy answer."""

    name: str
    prompts: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Text:
    """Scored by perplexity."""

    name: str
    text: str


def load_questions(path: Path) -> Questions:
    """One JSON object per line with `prompt` and `target`. Raises EvaluationError naming file and line."""
    prompts, targets = [], []
    for number, line in enumerate(_read(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise EvaluationError(f"{path}:{number}: not valid JSON: {error}") from error
        if not isinstance(row, dict) or not all(isinstance(row.get(k), str) for k in ("prompt", "target")):
            raise EvaluationError(f"{path}:{number}: needs the strings 'prompt' and 'target'")
        prompts.append(row["prompt"])
        targets.append(row["target"])
    if not prompts:
        raise EvaluationError(f"{path}: it holds no question")
    return Questions(path.stem, tuple(prompts), tuple(targets))


def load_text(path: Path) -> Text:
    """UTF-8 text. Raises EvaluationError."""
    text = _read(path)
    if not text.strip():
        raise EvaluationError(f"{path}: it holds no text")
    return Text(path.stem, text)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise EvaluationError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path}: cannot be read as text: {error}") from error
