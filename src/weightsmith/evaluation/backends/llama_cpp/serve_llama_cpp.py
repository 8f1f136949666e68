"""The process that llama.cpp runs in: it answers the requests of `LlamaCppProcess`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.child_process import Request, serve_requests
from weightsmith.errors import WeightsmithError
from weightsmith.evaluation.backends.llama_cpp.llama_cpp_context import LlamaCppContext
from weightsmith.evaluation.backends.llama_cpp.llama_cpp_model import LlamaCppModel

_NO_ANSWER = ("copy", "remove")


class _Server:
    def __init__(self) -> None:
        self.model: LlamaCppModel | None = None
        self.context: LlamaCppContext | None = None

    def __call__(self, request: dict[str, Any]) -> tuple[Request, bytes] | None:
        run = request.pop("run")
        try:
            answer = getattr(self, f"_{run}")(**request)
        except MemoryError as error:
            return {"memory": str(error)}, b""
        except WeightsmithError as error:
            return {"error": str(error)}, b""
        if run in _NO_ANSWER:
            return None
        return answer if isinstance(answer, tuple) else (answer, b"")

    def _load(self, path: str, vocabulary_only: bool, offload: bool) -> Request:
        self.model = model = LlamaCppModel(Path(path), vocabulary_only=vocabulary_only, offload=offload)
        return {
            "offloaded": model.offloaded,
            "vocabulary_size": model.vocabulary_size,
            "window": model.window,
            "bytes_per_position": 0 if vocabulary_only else model.bytes_per_position,
            "bos": model.bos,
            "eos": model.eos,
            "adds_bos": model.adds_bos,
        }

    def _tokenize(self, texts: list[str], special: bool) -> tuple[Request, bytes]:
        encoded = [self._loaded.tokenize(text, special=special) for text in texts]
        return {"lengths": [len(ids) for ids in encoded]}, b"".join(ids.tobytes() for ids in encoded)

    def _detokenize(self, tokens: list[int], special: bool) -> Request:
        return {"text": self._loaded.detokenize(tokens, special=special)}

    def _token_text(self, token: int) -> Request:
        return {"text": self._loaded.token_text(token)}

    def _ends(self, token: int) -> Request:
        return {"ends": self._loaded.ends(token)}

    def _open_context(self, cells: int, sequences: int, batch_size: int, threads: int) -> Request:
        self._close_context()
        self.context = LlamaCppContext(
            self._loaded, cells, sequences=sequences, batch_size=batch_size, threads=threads
        ).__enter__()
        return {}

    def _close_context(self) -> Request:
        if self.context:
            self.context.__exit__()
            self.context = None
        return {}

    def _copy(self, source: int, target: int, positions: int) -> None:
        self._opened.copy(source, target, positions)

    def _remove(self, sequence: int, position: int) -> None:
        self._opened.remove(sequence, position)

    def _decode(self, entries: list[Any]) -> tuple[Request, bytes]:
        logits = self._opened.decode(entries)
        return {"rows": len(logits)}, b"".join(row.tobytes() for row in logits)

    def _log_probabilities(self, entries: list[Any], targets: list[list[int]]) -> Request:
        """Of each row of logits: the most likely token, and the natural logarithms of the probabilities of
        `targets`."""
        answers = []
        for logits, tokens in zip(self._opened.decode(entries), targets, strict=True):
            wide = logits.astype(np.float64)
            top = wide.max()
            log_sum = top + np.log(np.exp(wide - top).sum())
            answers.append([int(wide.argmax()), [float(wide[token] - log_sum) for token in tokens]])
        return {"answers": answers}

    @property
    def _loaded(self) -> LlamaCppModel:
        assert self.model
        return self.model

    @property
    def _opened(self) -> LlamaCppContext:
        assert self.context
        return self.context


if __name__ == "__main__":
    serve_requests(_Server())
