"""Log-likelihoods of continuations, every prefix that requests share computed once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from weightsmith.evaluation.request import OnScores, Request, Score
from weightsmith.evaluation.scoring.prefix_tree import Step, in_order, steps


@dataclass(frozen=True)
class Prediction:
    """What a model says of one token of one sequence (its number among the sorted ones), and the token that it finds
    most likely."""

    sequence: int
    ln_p: float
    most_likely: int


Targets = dict[int, list[tuple[int, int]]]  # node of a step -> (sequence, the token it should predict)
Predict = Callable[[Step, Targets], Iterable[Prediction]]


def score_tree(
    requests: Sequence[Request],
    predict: Predict,
    *,
    budget: int,
    most: int = 1 << 30,
    on_scores: OnScores | None = None,
) -> list[Score]:
    """Scores in the order of `requests`. `budget`: nodes per pack; `most`: sequences per pack; `on_scores` is called
    after each step."""
    order = in_order([request.inputs for request in requests])
    totals, misses = np.zeros(len(requests)), dict[int, tuple[int, int]]()
    left = np.array([requests[number].scored for number in order])
    results: dict[int, Score] = {}
    for step in steps([requests[number].inputs for number in order], budget, most):
        finished = []
        for prediction in predict(step, _targets(step, requests, order)):
            k = prediction.sequence
            totals[k] += prediction.ln_p
            request, position = (
                requests[order[k]],
                int(requests[order[k]].scored - left[k]),
            )  # its tokens come in their order
            if k not in misses and prediction.most_likely != request.tokens[position - request.scored]:
                misses[k] = (position, prediction.most_likely)
            left[k] -= 1
            if not left[k]:
                results[order[k]] = Score(float(totals[k]), k not in misses, misses.get(k))
                finished.append((order[k], results[order[k]]))
        if on_scores and finished:
            on_scores(finished)
    return [results[number] for number in range(len(requests))]


def _targets(step: Step, requests: Sequence[Request], order: Sequence[int]) -> Targets:
    targets: Targets = defaultdict(list)
    for k, path in step.paths.items():
        request = requests[order[k]]
        first = len(request.tokens) - request.scored - 1  # the position that predicts the first scored token
        for position in range(max(first, step.depth), step.depth + len(path)):
            targets[int(path[position - step.depth])].append((k, int(request.tokens[position + 1])))
    return targets
