"""A task of plain text, scored by perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from weightsmith.errors import EvaluationError
from weightsmith.evaluation.backend import Backend
from weightsmith.evaluation.request import Request
from weightsmith.evaluation.task import Sample
from weightsmith.evaluation.text_tokens import TextTokens
from weightsmith.files.inputs.read_input import MAX_TEXT_BYTES, read_text

WINDOW = 512  # tokens of context
_PIECES = 8  # of a text that is too short for two windows


class Text:
    """A file of UTF-8 text. Perplexity: exp of the mean negative log-likelihood per token of the model's own tokenizer,
    in windows of 512 tokens without overlap, the first token of each not scored.

    `name`: in tables, by default the file's; `limit`: use the first so many windows; `divisible`: cut a text that is
    too short for two windows into eight pieces, so that a part of it can be held out. Raises EvaluationError.

    >>> ws.Text("novel.txt").name
    'novel'
    """

    metric, higher_is_better, factor = "perplexity", False, None

    def __init__(
        self, path: Path | str, *, name: str | None = None, limit: int | None = None, divisible: bool = False
    ) -> None:
        self.path = Path(path)
        self.name = name or self.path.stem
        self._limit, self._divisible = limit, divisible
        self._text = read_data(self.path)
        if not self._text.strip():
            raise EvaluationError(f"{self.path}: it holds no text", path=self.path)
        self._windows: dict[str, list[np.ndarray]] = {}  # by tokenizer

    def count(self, tokens: TextTokens) -> int:
        """As `Task.count`."""
        return len(self.windows(tokens))

    def windows(self, tokens: TextTokens) -> list[np.ndarray]:
        """int32 ids of each window. Raises EvaluationError."""
        key = tokens.fingerprint
        if key not in self._windows:
            (ids,) = tokens.encode([self._text], special=False)
            size = max(2, len(ids) // _PIECES) if self._divisible and len(ids) < 2 * WINDOW else WINDOW
            pieces = [ids[start : start + size] for start in range(0, len(ids), size)]
            windows = [piece for piece in pieces if len(piece) > 1]
            if not windows:
                raise EvaluationError(f"{self.path}: the text is a single token", path=self.path)
            self._windows[key] = windows[: self._limit]
        return self._windows[key]

    def samples(self, backend: Backend, numbers: Sequence[int]) -> list[Sample]:
        """As `Task.samples`."""
        windows = self.windows(backend.tokens)
        chosen = [windows[number] for number in numbers]
        scores = backend.score([Request(window, len(window) - 1) for window in chosen])
        return [
            Sample(number, (-score.log_likelihood, float(len(window) - 1)), {"tokens": len(window) - 1})
            for number, score, window in zip(numbers, scores, chosen, strict=True)
        ]


def read_data(path: Path) -> str:
    """The text of a data file. Raises EvaluationError."""
    return read_text(path, limit=MAX_TEXT_BYTES, error=EvaluationError)
