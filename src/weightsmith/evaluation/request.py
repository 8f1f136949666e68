"""What the evaluation loop asks of a model: how likely are these tokens, behind those?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Request:
    """`tokens`: int32 [n]; its last `scored` are to be predicted, each from all before it; 1 <= `scored` < n."""

    tokens: np.ndarray
    scored: int

    @property
    def inputs(self) -> np.ndarray:
        """What the model reads: the last token is only predicted."""
        return self.tokens[:-1]


@dataclass(frozen=True)
class Score:
    """Sum of ln p of the scored tokens, and whether each of them is the most likely one. `miss`: the first that is not,
    as its place among the scored ones and the token that is; None where there is none, or where it was not looked
    for."""

    log_likelihood: float
    greedy: bool
    miss: tuple[int, int] | None = None


OnScores = Callable[[Sequence[tuple[int, Score]]], None]  # (number of the request, its score), as they become known
