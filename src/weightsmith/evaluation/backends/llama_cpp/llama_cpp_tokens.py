"""llama.cpp's own tokenizer, which is the one that the file will be used with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from weightsmith.errors import EvaluationError
from weightsmith.evaluation.backends.llama_cpp.llama_cpp_process import LlamaCppProcess
from weightsmith.evaluation.text_tokens import Messages
from weightsmith.tokenizer.untrusted.chat_template import chat_text


class LlamaCppTokens:
    """The tokenizer of a loaded model; see `TextTokens`."""

    def __init__(self, process: LlamaCppProcess) -> None:
        self._process, self._path = process, process.path
        self.bos, self.eos = process.bos, process.eos
        self.template: str | None = process.metadata.get("tokenizer.chat_template")
        content = {key: str(value) for key, value in process.metadata.items() if key.startswith("tokenizer.")}
        self.fingerprint = hashlib.sha256(repr(sorted(content.items())).encode()).hexdigest()
        self._ends: dict[int, bool] = {}

    def ends(self, token: int) -> bool:
        """Whether an answer ends with it."""
        if token not in self._ends:
            self._ends[token] = self._process.ask({"run": "ends", "token": token})[0]["ends"]
        return self._ends[token]

    def encode(self, texts: Sequence[str], *, special: bool) -> list[np.ndarray]:
        request = {"run": "tokenize", "texts": list(texts), "special": special}
        answer, content = self._process.ask(request)
        return np.split(np.frombuffer(content, np.int32), np.cumsum(answer["lengths"])[:-1]) if texts else []

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        return self._process.ask({"run": "detokenize", "tokens": list(tokens), "special": special})[0]["text"]

    def chat(self, messages: Messages, *, answer: bool = True) -> str:
        if not self.template:
            raise EvaluationError(f"{self._path}: no chat template in it", path=self._path)
        special_tokens = {"bos_token": self._text(self.bos), "eos_token": self._text(self.eos)}
        return chat_text(self.template, messages, special_tokens=special_tokens, answer=answer)

    def _text(self, token: int | None) -> str:
        return self._process.ask({"run": "token_text", "token": token})[0]["text"] if token is not None else ""
