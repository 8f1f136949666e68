"""How many questions fit into a time: each task gets the same share of its questions, drawn at random, the same for all
models."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weightsmith.errors import EvaluationError
from weightsmith.evaluation.backend import Backend, question_tokens
from weightsmith.evaluation.open_suite import OpenSuite, OwnTask
from weightsmith.evaluation.request import Request
from weightsmith.evaluation.settings import EvaluationSettings
from weightsmith.evaluation.tasks.text_task import Text

_PROBE = 12  # questions of each task that are read to learn how long they are
_PROBE_TOKENS = 3000  # that are timed
_RESERVE = 0.85  # of the time is planned for: loading, tokenizing and aggregating take the rest
_LEAST = 4  # questions of a task, or its share means nothing
_ANSWER_SHARE = 0.5  # of the tokens that a generated answer may have, it takes on average
_DECODED = 4  # a generated token takes as long as so many that are read


@dataclass(frozen=True)
class Budget:
    """Seconds for so many models, of which the first is timed and the others are taken to be as fast."""

    seconds: float
    models: int


def choose_samples(
    suites: Sequence[OpenSuite],
    backend: Backend,
    budget: Budget,
    settings: EvaluationSettings,
    log: Callable[[str], None],
) -> list[dict[str, list[int]] | None]:
    """The numbers of the questions of each task, per suite. Raises EvaluationError where not even a few of each fit."""
    costs, sizes = {}, {}
    for suite in suites:
        for name, task in suite.harness.tasks.items() if suite.harness else ():
            sizes[name], costs[name] = len(task.eval_docs), _tokens_per_question(task, backend)
        for entry, task in suite.own.items():
            sizes[entry.name], costs[entry.name] = task.count(backend.tokens), _tokens_per_unit(task, backend)
    sizes = {name: min(settings.limit or size, size) for name, size in sizes.items()}
    rate = _tokens_per_second(backend)
    affordable = budget.seconds * _RESERVE / budget.models * rate
    needed = sum(costs[name] * sizes[name] for name in costs)
    share = min(1.0, affordable / needed)
    counts = {name: min(sizes[name], max(_LEAST, int(share * sizes[name]))) for name in costs}
    if sum(costs[name] * counts[name] for name in costs) > 2 * affordable and share < 1:
        least = sum(costs[name] * counts[name] for name in costs) / rate * budget.models / _RESERVE
        raise EvaluationError(
            f"--budget: {budget.seconds:.0f} s are too short for {_LEAST} questions of each of {len(costs)} tasks by "
            f"{budget.models} models, which take about {least:.0f} s; give more, or fewer tasks"
        )
    if share == 1.0:
        log("all questions fit into the budget")
    else:
        total, asked = sum(sizes.values()), sum(counts.values())
        width = 100 * 1.96 * (0.25 / asked) ** 0.5
        log(
            f"the budget is enough for {asked} of {total} questions ({100 * share:.0f} % of each task); "
            f"accuracy is then known to about ±{width:.1f} points over all, "
            f"±{100 * 1.96 * (0.25 / min(counts.values())) ** 0.5:.0f} in the smallest task"
        )
    random = np.random.default_rng(settings.seed)
    drawn = {name: sorted(random.permutation(sizes[name])[:count].tolist()) for name, count in counts.items()}
    return [{name: drawn[name] for name in _names(suite)} for suite in suites]


def _names(suite: OpenSuite) -> list[str]:
    return [*(suite.harness.tasks if suite.harness else ()), *(entry.name for entry in suite.own)]


def _tokens_per_unit(task: OwnTask, backend: Backend) -> float:
    """What has to be read for a question, or for a window of a text."""
    if isinstance(task, Text):
        return sum(map(len, task.windows(backend.tokens))) / task.count(backend.tokens)
    prompts = [question_tokens(backend, prompt) for prompt in task.prompts[:_PROBE]]
    targets = backend.tokens.encode(task.targets[:_PROBE], special=False)
    return sum(map(len, [*prompts, *targets])) / len(prompts)


def _tokens_per_question(task: Any, backend: Backend) -> float:
    """What has to be read: the longest context once, and the answers behind it."""
    task.build_all_requests(limit=_PROBE, rank=0, world_size=1)
    by_question: dict[int, list[Any]] = {}
    for instance in task.instances:
        by_question.setdefault(instance.doc_id, []).append(instance)
    total = 0.0
    for instances in by_question.values():
        contexts = {instance.args[0] for instance in instances}
        total += sum(len(ids) for ids in backend.tokens.encode(sorted(contexts), special=True))
        for instance in instances:
            if instance.request_type == "generate_until":
                total += _DECODED * _ANSWER_SHARE * instance.args[1].get("max_gen_toks", 256)
            elif len(instance.args) > 1:
                total += len(backend.tokens.encode([instance.args[1]], special=False)[0])
    return total / len(by_question)


def _tokens_per_second(backend: Backend) -> float:
    random = np.random.default_rng(0)
    length = min(400, (backend.window or 400))
    requests = [
        Request(random.integers(0, 200, length, dtype=np.int32), 2) for _ in range(max(1, _PROBE_TOKENS // length))
    ]
    backend.score(requests[:1])
    started = time.perf_counter()
    backend.score(requests)
    return sum(len(request.inputs) for request in requests) / (time.perf_counter() - started)
