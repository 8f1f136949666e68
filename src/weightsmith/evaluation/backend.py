"""What the evaluation loop asks of a loaded model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from weightsmith.evaluation.request import OnScores, Request, Score
from weightsmith.evaluation.text_tokens import TextTokens

# (question, text so far) -> does its answer continue? Where it does not, it does not with more text either.
GoesOn = Callable[[int, str], bool]
OnAnswers = Callable[[Sequence[tuple[int, str]]], None]  # (number of the question, its answer), as they become known


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: the most likely one, or, with a temperature, drawn."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


GREEDY = Sampling()


class Backend(Protocol):
    """One loaded model. `window`: positions it was made for, None where it does not say; `precision`: its compute
    precision."""

    @property
    def name(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def window(self) -> int | None: ...
    @property
    def tokens(self) -> TextTokens: ...

    def ends(self, token: int) -> bool:
        """Whether an answer ends with it."""
        ...

    def score(self, requests: Sequence[Request], *, on_scores: OnScores | None = None) -> list[Score]:
        """Scores in the order of `requests`; `on_scores` gets scores as they become known."""
        ...

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        limit: int,
        goes_on: GoesOn,
        *,
        sampling: Sampling = GREEDY,
        on_answers: OnAnswers | None = None,
    ) -> list[str]:
        """Continuations of at most `limit` tokens, to an end token, or until `goes_on` says no."""
        ...


def question_tokens(backend: Backend, prompt: str) -> np.ndarray:
    """int32 ids that ask `prompt`: through the chat template where the model has one, else as it is."""
    tokens = backend.tokens
    if not tokens.template:
        return tokens.encode([prompt], special=True)[0]
    return tokens.encode([tokens.chat([{"role": "user", "content": prompt}])], special=False)[0]
