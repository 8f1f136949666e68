"""One model on several devices, which share what it is asked."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from itertools import accumulate
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from weightsmith.engine.workers.on_threads import Stop, on_threads
from weightsmith.evaluation.backend import GREEDY, GoesOn, OnAnswers, Sampling
from weightsmith.evaluation.backends.transformers.transformers_backend import TransformersBackend
from weightsmith.evaluation.request import OnScores, Request, Score
from weightsmith.evaluation.scoring.prefix_tree import in_order

Answer = TypeVar("Answer")
OnResults = Callable[[Sequence[tuple[int, Answer]]], None]


class _Stopped(Exception):
    """Another device failed, or Ctrl-C."""


class LoadedOnce:
    """`load`, for `count` callers: each gets a model of its own."""

    def __init__(self, load: Callable[[], Any], count: int) -> None:
        self._load, self._left, self._lock = load, count, threading.Lock()
        self._model: Any = None

    def __call__(self) -> Any:
        with self._lock:
            self._model = self._load() if self._model is None else self._model
            self._left -= 1
            if self._left:
                return copy.deepcopy(self._model)
            model, self._model = self._model, None
            return model


class SeveralDevices:
    """A backend of some, one for each device."""

    def __init__(self, backends: Sequence[TransformersBackend]) -> None:
        self._backends, first = backends, backends[0]
        self.name, self.precision, self.window, self.tokens = first.name, first.precision, first.window, first.tokens

    def ends(self, token: int) -> bool:
        return self._backends[0].ends(token)

    def score(self, requests: Sequence[Request], *, on_scores: OnScores | None = None) -> list[Score]:
        def ask(backend: TransformersBackend, part: list[int], on_results: OnResults[Score]) -> object:
            return backend.score([requests[number] for number in part], on_scores=on_results)

        return self._shared([request.inputs for request in requests], ask, on_scores)

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        limit: int,
        goes_on: GoesOn,
        *,
        sampling: Sampling = GREEDY,
        on_answers: OnAnswers | None = None,
    ) -> list[str]:
        def ask(backend: TransformersBackend, part: list[int], on_results: OnResults[str]) -> object:
            return backend.generate(
                [prompts[number] for number in part],
                limit,
                lambda question, text: goes_on(part[question], text),
                sampling=sampling,
                on_answers=on_results,
            )

        return self._shared(prompts, ask, on_answers)

    def _shared(
        self,
        sequences: Sequence[np.ndarray],
        ask: Callable[[TransformersBackend, list[int], OnResults[Answer]], object],
        on_answers: OnResults[Answer] | None,
    ) -> list[Answer]:
        """`on_answers` is called by the calling thread alone."""
        answers: dict[int, Answer] = {}
        found: SimpleQueue[list[tuple[int, Answer]]] = SimpleQueue()
        parts = equal_parts(sequences, len(self._backends))

        def take() -> None:
            while not found.empty():
                named = found.get()
                answers.update(named)
                if on_answers:
                    on_answers(named)

        def work(place: int, stop: Stop) -> None:
            def on_results(results: Sequence[tuple[int, Answer]]) -> None:
                found.put([(parts[place][position], answer) for position, answer in results])
                if stop.is_set():
                    raise _Stopped

            if parts[place]:
                ask(self._backends[place], parts[place], on_results)

        for _ in on_threads(work, range(len(parts)), len(parts), tick=take):
            take()
        return [answers[number] for number in range(len(sequences))]


def equal_parts(sequences: Sequence[np.ndarray], count: int) -> list[list[int]]:
    """The numbers of int32 sequences in `count` lists of about as many tokens each. Neighbours in order stay together,
    so that what they share is computed once."""
    order = in_order(sequences)
    parts: list[list[int]] = [[] for _ in range(count)]
    before = [0, *accumulate(len(sequences[number]) for number in order)]
    for number, position in zip(order, before, strict=False):
        parts[min(count - 1, position * count // max(1, before[-1]))].append(number)
    return parts
