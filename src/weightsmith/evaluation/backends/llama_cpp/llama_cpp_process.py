"""A GGUF file in llama.cpp in a process of its own: what llama.cpp ends by an assertion ends that process, and is one
message here."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.child_process import ChildDied, ChildProcess
from weightsmith.errors import EvaluationError, shown
from weightsmith.evaluation.backends.llama_cpp.llama_cpp_context import BatchEntry
from weightsmith.llama_cpp import load_llama_cpp

_SERVER = "weightsmith.evaluation.backends.llama_cpp.serve_llama_cpp"


class LlamaCppProcess:
    """A loaded model, for as long as this object lives.

    `metadata` is the file's; `vocabulary_size`; `window`: positions it was trained on, None where the file does not
    say; `bytes_per_position`: of keys and values; `offloaded`: its layers are on a GPU; `bos`, `eos`: ids or None;
    `adds_bos`: llama.cpp puts the begin token first by itself."""

    def __init__(self, path: Path, *, vocabulary_only: bool = False, offload: bool = False) -> None:
        """`vocabulary_only`: the tokenizer without the weights; `offload`: layers go to a GPU, if there is one. Raises
        EvaluationError where llama.cpp cannot load it."""
        self.path = path
        self.metadata = GGUFFile(path).metadata  # also refuses a file that is cut short, before native code reads it
        tokens = self.metadata.get("tokenizer.ggml.tokens") or []
        if len(set(tokens)) < len(tokens):  # llama.cpp would end with no word about which
            (token, _), *_ = Counter(tokens).most_common(1)
            raise EvaluationError(f"{path}: its vocabulary has the token {shown(token)} twice", path=path)
        load_llama_cpp()  # says what to install
        self._child = ChildProcess(_SERVER)
        weakref.finalize(self, self._child.close)
        facts, _ = self.ask({"run": "load", "path": str(path), "vocabulary_only": vocabulary_only, "offload": offload})
        self.offloaded: bool = facts["offloaded"]
        self.vocabulary_size: int = facts["vocabulary_size"]
        self.window: int | None = facts["window"]
        self.bytes_per_position: int = facts["bytes_per_position"]
        self.bos: int | None = facts["bos"]
        self.eos: int | None = facts["eos"]
        self.adds_bos: bool = facts["adds_bos"]

    def ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """The answer of `serve_llama_cpp.py`. Raises MemoryError where llama.cpp has no room, else EvaluationError."""
        try:
            answer, content = self._child.ask(request)
        except ChildDied as died:
            raise EvaluationError(f"{self.path}: llama.cpp cannot run it: {died}", path=self.path) from died
        if "memory" in answer:
            raise MemoryError(answer["memory"])
        if "error" in answer:
            raise EvaluationError(answer["error"], path=self.path)
        return answer, content

    def tell(self, request: dict[str, Any]) -> None:
        """A request that has no answer."""
        self._child.tell(request)


class ProcessContext:
    """See `LlamaCppContext`: the one of the other process. To be closed with `with`."""

    def __init__(self, process: LlamaCppProcess, cells: int, *, sequences: int, batch_size: int, threads: int) -> None:
        """Raises MemoryError where llama.cpp has no room."""
        self._process = process
        process.ask(
            {
                "run": "open_context",
                "cells": cells,
                "sequences": sequences,
                "batch_size": batch_size,
                "threads": threads,
            }
        )

    def __enter__(self) -> ProcessContext:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None or issubclass(error, MemoryError | GeneratorExit):  # else the process may be gone
            self._process.ask({"run": "close_context"})

    def copy(self, source: int, target: int, positions: int) -> None:
        self._process.tell({"run": "copy", "source": source, "target": target, "positions": positions})

    def remove(self, sequence: int, position: int) -> None:
        self._process.tell({"run": "remove", "sequence": sequence, "position": position})

    def decode(self, entries: Sequence[BatchEntry]) -> list[np.ndarray]:
        """The logits asked for, float32 [vocabulary] each."""
        answer, content = self._process.ask({"run": "decode", "entries": entries})
        return list(np.frombuffer(content, np.float32).reshape(answer["rows"], -1)) if answer["rows"] else []

    def log_probabilities(
        self, entries: Sequence[BatchEntry], targets: Sequence[Sequence[int]]
    ) -> list[tuple[int, list[float]]]:
        """For each entry whose logits are asked for: the most likely token, and the natural logarithms of the
        probabilities of its `targets`."""
        request = {"run": "log_probabilities", "entries": entries, "targets": targets}
        return [(token, values) for token, values in self._process.ask(request)[0]["answers"]]
