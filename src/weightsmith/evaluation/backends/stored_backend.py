"""A backend that remembers: what a model was asked before, in an interrupted run too, is not asked again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xxhash

from weightsmith.evaluation.answer_store import AnswerStore
from weightsmith.evaluation.backend import GREEDY, Backend, GoesOn, OnAnswers, Sampling
from weightsmith.evaluation.request import OnScores, Request, Score
from weightsmith.evaluation.scoring.stop_rules import StopRule
from weightsmith.evaluation.text_tokens import TextTokens


class StoredBackend:
    """See `Backend`. `key` names all that answers depend on besides the request: the content of the weights and the
    compute precision. `computed` and `reused` count requests by where their answers came from."""

    def __init__(
        self,
        backend: Backend,
        store: AnswerStore,
        key: str,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """`on_progress` gets the number of answers there are and of requests, of each call of `score` and
        `generate`."""
        self._backend, self._store, self._key, self._on_progress = backend, store, key, on_progress
        self.computed = self.reused = 0

    @property
    def name(self) -> str:
        return self._backend.name

    @property
    def precision(self) -> str:
        return self._backend.precision

    @property
    def window(self) -> int | None:
        return self._backend.window

    @property
    def tokens(self) -> TextTokens:
        return self._backend.tokens

    def ends(self, token: int) -> bool:
        return self._backend.ends(token)

    def score(self, requests: Sequence[Request], *, on_scores: OnScores | None = None) -> list[Score]:
        """As `Backend.score`; equal requests are asked once."""
        keys = [self._name("score", request.tokens, request.scored) for request in requests]
        by_key = dict(zip(keys, requests, strict=True))
        try:
            scores = {key: _score(answer) for key, answer in self._store.get(list(by_key)).items()}
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise self._store.damaged(error) from error
        missing = [key for key in by_key if key not in scores]
        answered = self._count(len(by_key), len(missing))

        def keep(finished: Sequence[tuple[int, Score]]) -> None:
            self._store.put({missing[k]: [score.log_likelihood, score.greedy, score.miss] for k, score in finished})
            answered(len(finished))

        if missing:
            fresh = self._backend.score([by_key[key] for key in missing], on_scores=keep)
            scores |= dict(zip(missing, fresh, strict=True))
        ordered = [scores[key] for key in keys]
        if on_scores:
            on_scores(list(enumerate(ordered)))
        return ordered

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        limit: int,
        goes_on: GoesOn,
        *,
        sampling: Sampling = GREEDY,
        on_answers: OnAnswers | None = None,
    ) -> list[str]:
        """As `Backend.generate`. Answers are kept where `goes_on` is a `StopRule`, which can be named, and nothing is
        drawn at random."""
        keeps = isinstance(goes_on, StopRule) and sampling.temperature == 0
        keys = [
            self._name("generate", prompt, [goes_on.rule(k) if isinstance(goes_on, StopRule) else None, limit])
            for k, prompt in enumerate(prompts)
        ]
        texts = self._store.get(keys) if keeps else {}
        if not all(isinstance(text, str) for text in texts.values()):
            raise self._store.damaged(TypeError("an answer is no text"))
        missing = [k for k, key in enumerate(keys) if key not in texts]
        answered = self._count(len(keys), len(missing))

        def keep(finished: Sequence[tuple[int, str]]) -> None:
            if keeps:
                self._store.put({keys[missing[k]]: text for k, text in finished})
            answered(len(finished))

        fresh: dict[int, str] = {}
        if missing:
            generated = self._backend.generate(
                [prompts[k] for k in missing],
                limit,
                lambda k, text: goes_on(missing[k], text),
                sampling=sampling,
                on_answers=keep,
            )
            fresh = dict(zip(missing, generated, strict=True))
        ordered = [fresh[k] if k in fresh else texts[key] for k, key in enumerate(keys)]
        if on_answers:
            on_answers(list(enumerate(ordered)))
        return ordered

    def _name(self, request_type: str, tokens: np.ndarray, more: Any) -> str:
        """Names a request by all that its answer depends on."""
        about = json.dumps([self._key, request_type, more])
        return xxhash.xxh3_128_hexdigest(about.encode() + b"\0" + tokens.astype(np.int32).tobytes())

    def _count(self, total: int, missing: int) -> Callable[[int], None]:
        """Returns what is called with the number of answers that have come."""
        self.computed += missing
        self.reused += total - missing
        done = total - missing

        def answered(count: int) -> None:
            nonlocal done
            done += count
            self._on_progress(done, total)

        return answered


def _score(answer: list[Any]) -> Score:
    log_likelihood, greedy, miss = answer
    return Score(log_likelihood, greedy, (miss[0], miss[1]) if miss else None)
