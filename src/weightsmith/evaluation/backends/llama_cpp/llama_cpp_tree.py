"""A prefix tree run by llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator

from weightsmith.evaluation.backends.llama_cpp.llama_cpp_process import ProcessContext
from weightsmith.evaluation.scoring.prefix_tree import Step
from weightsmith.evaluation.scoring.tree_scorer import Prediction, Targets


class LlamaCppTree:
    """`predict` of `score_tree`: llama.cpp's sequence 0 is the stems, each sequence of a pack gets a number of its
    own."""

    def __init__(self, context: ProcessContext) -> None:
        self._context = context

    def __call__(self, step: Step, targets: Targets) -> Iterator[Prediction]:
        self._context.remove(0, step.depth)
        sequences_of: list[list[int]] = [[] for _ in step.tokens]
        if step.stem:
            sequences_of = [[0] for _ in step.tokens]
        else:
            for sequence, path in enumerate(step.paths.values(), start=1):
                if step.depth:
                    self._context.copy(0, sequence, step.depth)
                for node in path:
                    sequences_of[node].append(sequence)
        entries = [
            (int(token), int(position), sequences_of[node], node in targets)
            for node, (token, position) in enumerate(zip(step.tokens, step.positions, strict=True))
        ]
        nodes = sorted(targets)
        answers = self._context.log_probabilities(entries, [[int(t) for _, t in targets[node]] for node in nodes])
        for node, (most_likely, values) in zip(nodes, answers, strict=True):
            for (sequence, _), value in zip(targets[node], values, strict=True):
                yield Prediction(sequence, value, most_likely)
        if not step.stem:
            for sequence in range(1, len(step.paths) + 1):
                self._context.remove(sequence, 0)
