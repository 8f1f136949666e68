"""What the evaluation loop asks of a loaded model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

Live = Callable[[int, str], bool]  # (question, text so far) -> may it still become right?


class Backend(Protocol):
    """One loaded model."""

    name: str

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, no special tokens added."""
        ...

    def encode_question(self, prompt: str) -> list[int]:
        """Token ids that ask `prompt`: through the chat template where the model has one, else as it is."""
        ...

    def negative_log_likelihood(self, tokens: Sequence[int]) -> float:
        """Sum of -ln p(token | tokens before it) over all but the first."""
        ...

    def generate(self, prompts: Sequence[Sequence[int]], limit: int, live: Live) -> list[str]:
        """Greedy continuations of at most `limit` tokens, to the end token, or until `live` says no."""
        ...


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all prompts share, leaving each at least one of its own."""
    shortest = min(len(p) for p in prompts)
    count = 0
    while count < shortest - 1 and all(p[count] == prompts[0][count] for p in prompts):
        count += 1
    return count
