"""Whether a tokenizer can be used: tried on a few texts, in a process that has limits of time and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weightsmith.errors import CheckpointError
from weightsmith.tokenizer.untrusted.limited_process import MEMORY, SECONDS, LimitExceeded, ask_limited

_MEMORY_PER_BYTE = 40  # of a tokenizer.json, when it is loaded; Gemma's takes 12
_SECONDS_PER_BYTE = 1e-6

# Scripts, digits, spaces, emoji, code, one letter and one space many times: what patterns without end are made for.
_TEXTS = (
    "The quick brown fox jumps over the lazy dog. It's 12:45, we'll see you're RIGHT!  Two  spaces.",
    "Größe, naïve façade. Здравствуйте. שלום עולם. 今日はいい天気ですね。 안녕하세요 नमस्ते 🚀 👩‍👩‍👧 ½ ² ①",
    "def f(x: int) -> str:\n\tif x >= 10:\n\t\treturn f\"{x!r}\"  # comment\n\n\n    return ''\r\n\r\n",
    "a" * 2000 + "!",
    " " * 2000 + "!",
    "1" * 2000 + "!",
)


def try_tokenizer(folder: Path, texts: Sequence[str] = _TEXTS) -> None:
    """Raises CheckpointError where the tokenizer.json of `folder` cannot be loaded, or cannot tokenize `texts` within
    the limits. A folder without one is not tried."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return
    size = path.stat().st_size
    try:
        reply = ask_limited(
            {"run": "tokenize", "path": str(path.absolute()), "texts": list(texts)},
            seconds=SECONDS + size * _SECONDS_PER_BYTE,
            memory=MEMORY + size * _MEMORY_PER_BYTE,
        )
    except LimitExceeded as error:
        raise CheckpointError(
            f"{path}: the tokenizer {error} for a text of a few kilobytes; its rules for splitting or replacing text "
            "are not those of a usable tokenizer",
            path=path,
        ) from error
    if "error" in reply:
        raise CheckpointError(f"{path}: the tokenizer cannot be used: {reply['error']}", path=path)


def answer_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """What is wrong, or nothing: in the process with limits."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(request["path"])
        for text in request["texts"]:
            tokenizer.encode(text)
    except MemoryError:
        raise
    except BaseException as error:  # its native code raises panics as well, which are no Exception
        return {"error": f"{error}"[:500]}
    return {}
