"""`weightsmith evaluate`: every model on every task."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weightsmith.errors import EvaluationError
from weightsmith.evaluation.backend import Backend, question_tokens
from weightsmith.evaluation.backends.open_backend import open_backend
from weightsmith.evaluation.request import Request
from weightsmith.evaluation.scoring.exact_answers import SPARE, goes_on
from weightsmith.evaluation.tasks.question_files import Questions, Text, load_questions, load_text
from weightsmith.machine import available_cores
from weightsmith.models.find_model import short_name
from weightsmith.models.open_model import open_model

WINDOW = 512  # tokens of context for perplexity


@dataclass(frozen=True)
class TaskScore:
    """`value` is a share in [0, 1] (exact_match) or a perplexity per token; `count` questions or scored tokens.
    `answers` are what was generated, cut where an answer could no longer become right."""

    task: str
    metric: str
    value: float
    count: int
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelScores:
    label: str
    reference: str
    backend: str
    scores: tuple[TaskScore, ...]
    seconds: float

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ModelScores:
        """The inverse of `asdict`, after a way through JSON."""
        scores = tuple(TaskScore(**{**score, "answers": tuple(score["answers"])}) for score in value["scores"])
        return cls(**{**value, "scores": scores})


@dataclass(frozen=True)
class Evaluation:
    models: tuple[ModelScores, ...]

    def as_json(self) -> dict[str, Any]:
        return {"window": WINDOW, "models": [asdict(model) for model in self.models]}


def evaluate(
    models: Sequence[str] | dict[str, str],
    *,
    questions: Sequence[Path | str] = (),
    texts: Sequence[Path | str] = (),
    threads: int | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Score models (references, or label -> reference) on JSONL questions and text files.

    Exact match: greedy answer, spaces at both ends ignored, equal to the target. Perplexity: exp of the mean negative
    log-likelihood per token, in windows of 512 tokens without overlap, the first token of each not scored.
    Raises CheckpointError or EvaluationError before the first model is loaded where data or references are wrong.
    """
    labelled = models if isinstance(models, dict) else {short_name(reference): reference for reference in models}
    if len(labelled) < len(models):
        raise EvaluationError("two models have the same name: give each its own as LABEL=MODEL")
    tasks: list[Questions | Text] = [load_questions(Path(q)) for q in questions]
    tasks += [load_text(Path(t)) for t in texts]
    if not tasks:
        raise EvaluationError("nothing to evaluate: give questions (JSONL) or a text")
    if len({task.name for task in tasks}) < len(tasks):
        raise EvaluationError("two tasks have the same file name; rename one, because the table is keyed by it")
    for reference in labelled.values():
        open_model(reference)
    count = threads or available_cores()
    return Evaluation(tuple(_score_model(label, ref, tasks, count, log) for label, ref in labelled.items()))


def _score_model(
    label: str, reference: str, tasks: Sequence[Questions | Text], threads: int, log: Callable[[str], None]
) -> ModelScores:
    started = time.monotonic()
    backend = open_backend(open_model(reference), threads=threads)
    scores = []
    for task in tasks:
        score = _perplexity(backend, task) if isinstance(task, Text) else _exact_match(backend, task)
        shown = f"{score.value:.1%}" if score.metric == "exact_match" else f"perplexity {score.value:.2f}"
        log(f"{label}: {task.name} {shown}")
        scores.append(score)
    return ModelScores(label, reference, backend.name, tuple(scores), time.monotonic() - started)


def _exact_match(backend: Backend, task: Questions) -> TaskScore:
    targets = [target.strip() for target in task.targets]
    limit = max(map(len, backend.tokens.encode(targets, special=False))) + SPARE
    answers = backend.generate(
        [question_tokens(backend, prompt) for prompt in task.prompts], limit, lambda k, text: goes_on(targets[k], text)
    )
    right = sum(answer.strip() == target for answer, target in zip(answers, targets, strict=True))
    return TaskScore(task.name, "exact_match", right / len(targets), len(targets), tuple(answers))


def _perplexity(backend: Backend, task: Text) -> TaskScore:
    (tokens,) = backend.tokens.encode([task.text], special=False)
    windows = [tokens[i : i + WINDOW] for i in range(0, len(tokens), WINDOW)]
    windows = [w for w in windows if len(w) > 1]
    if not windows:
        raise EvaluationError(f"{task.name}: the text is a single token")
    count = sum(len(window) - 1 for window in windows)
    scores = backend.score([Request(window, len(window) - 1) for window in windows])
    return TaskScore(task.name, "perplexity", math.exp(-sum(s.log_likelihood for s in scores) / count), count)
