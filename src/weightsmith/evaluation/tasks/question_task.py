"""A task of questions with one right answer each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from weightsmith.errors import EvaluationError
from weightsmith.evaluation.backend import Backend, question_tokens
from weightsmith.evaluation.scoring.exact_answers import answer_nats, exact_answers
from weightsmith.evaluation.task import Sample
from weightsmith.evaluation.text_tokens import TextTokens
from weightsmith.files.inputs.read_input import MAX_TEXT_BYTES, read_json_lines


class Questions:
    """Questions from a JSONL file with the strings `prompt` and `target` in each line.

    `exact_match`: the share of questions whose greedy answer equals the target, spaces at both ends aside.
    `perplexity`: per token of the targets and the end behind each. Questions go through the model's chat template where
    it has one. `name`: in tables, by default the file's; `limit`: use the first so many questions. Raises
    EvaluationError naming file and line.

    >>> len(ws.Questions("skill.jsonl").prompts)
    24
    """

    def __init__(
        self,
        path: Path | str,
        *,
        metric: Literal["exact_match", "perplexity"] = "exact_match",
        name: str | None = None,
        limit: int | None = None,
    ) -> None:
        self.path, self.metric = Path(path), metric
        self.name = name or self.path.stem
        self.higher_is_better = metric == "exact_match"
        self.factor = 100.0 if self.higher_is_better else None
        questions = _load(self.path)[:limit]
        self.prompts, self.targets = [q[0] for q in questions], [q[1] for q in questions]
        self._tokens: dict[tuple[str, str | None, int], np.ndarray] = {}  # by tokenizer, chat template and number

    def count(self, tokens: TextTokens) -> int:
        """As `Task.count`."""
        return len(self.prompts)

    def samples(self, backend: Backend, numbers: Sequence[int]) -> list[Sample]:
        """As `Task.samples`."""
        prompts = [self._asked(backend, number) for number in numbers]
        targets = [self.targets[number].strip() for number in numbers]
        if self.metric == "perplexity":
            answers = answer_nats(backend, prompts, targets)
            return [
                Sample(number, answer, self._record(number)) for number, answer in zip(numbers, answers, strict=True)
            ]
        texts = exact_answers(backend, prompts, targets)
        return [
            Sample(number, (float(text.strip() == target), 1.0), self._record(number) | {"answer": text})
            for number, text, target in zip(numbers, texts, targets, strict=True)
        ]

    def _asked(self, backend: Backend, number: int) -> np.ndarray:
        key = (backend.tokens.fingerprint, backend.tokens.template, number)
        if key not in self._tokens:
            self._tokens[key] = question_tokens(backend, self.prompts[number])
        return self._tokens[key]

    def _record(self, number: int) -> dict[str, str]:
        return {"prompt": self.prompts[number], "target": self.targets[number]}


def _load(path: Path) -> list[tuple[str, str]]:
    """(prompt, target) of each line. Raises EvaluationError naming file and line."""
    questions = []
    for number, row in read_json_lines(path, limit=MAX_TEXT_BYTES, error=EvaluationError):
        if not all(isinstance(row.get(k), str) for k in ("prompt", "target")):
            raise EvaluationError(f"{path}:{number}: needs the strings 'prompt' and 'target'", path=path, line=number)
        questions.append((row["prompt"], row["target"]))
    if not questions:
        raise EvaluationError(f"{path}: it holds no question", path=path)
    return questions
