"""A text, or tokens drawn at random, as windows of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.errors import MergeError
from weightsmith.files.inputs.read_input import MAX_TEXT_BYTES, read_text

_LONGEST = 1 << 20  # characters that are tokenized at once


def text_windows(path: Path, tokenizer: Any, samples: int, context: int) -> list[np.ndarray]:
    """int64 ids: at most `samples` windows of `context` tokens, spread evenly over the text; the last one of a short
    text may be shorter. Raises MergeError where the text is empty or cannot be read."""
    text = read_text(path, limit=MAX_TEXT_BYTES, error=MergeError)
    pieces = [text[start : start + _LONGEST] for start in range(0, len(text), _LONGEST)]
    ids = np.concatenate(
        [np.array(tokenizer(piece, add_special_tokens=False)["input_ids"], np.int64) for piece in pieces]
        or [np.empty(0, np.int64)]
    )
    windows = [ids[start : start + context] for start in range(0, len(ids), context)]
    whole = [window for window in windows if len(window) == context] or [w for w in windows if len(w) > 1]
    if not whole:
        raise MergeError(f"{path}: it holds {len(ids)} tokens; a text to learn from has some thousands", path=path)
    return evenly(whole, samples)


def random_windows(vocabulary: int, samples: int, context: int, seed: int) -> list[np.ndarray]:
    """int64 ids of `samples` windows of `context` tokens, each drawn uniformly from the first `vocabulary` ones.

    >>> [window.shape for window in random_windows(100, 2, 8, seed=0)]
    [(8,), (8,)]
    """
    drawn = np.random.Generator(np.random.Philox(seed)).integers(0, vocabulary, (samples, context))
    return list(drawn)


def evenly(windows: Sequence[np.ndarray], samples: int) -> list[np.ndarray]:
    """At most `samples` of them, from all over the text.

    >>> [int(w[0]) for w in evenly([np.array([i]) for i in range(10)], 3)]
    [0, 3, 6]
    """
    count = min(samples, len(windows))
    return [windows[len(windows) * number // count] for number in range(count)]
