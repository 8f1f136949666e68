"""Text to token ids and back, as evaluation needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

Messages = list[dict[str, str]]  # role, content


class TextTokens(Protocol):
    """`bos` and `eos`: token ids, or None; `template`: the chat template; `fingerprint`: equal where all token ids
    are."""

    @property
    def bos(self) -> int | None: ...
    @property
    def eos(self) -> int | None: ...
    @property
    def template(self) -> str | None: ...
    @property
    def fingerprint(self) -> str: ...

    def encode(self, texts: Sequence[str], *, special: bool) -> list[np.ndarray]:
        """int32 ids of each text; `special` adds what the model expects around a text, such as a first token."""
        ...

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """The text; special tokens are left out unless asked for."""
        ...

    def chat(self, messages: Messages, *, answer: bool = True) -> str:
        """Messages through the chat template; `answer`: the model's turn begins, else the last message continues."""
        ...
