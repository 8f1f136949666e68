"""llama.cpp's own tokenizer, which is the one that the file will be used with."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence

import numpy as np

from weightsmith.errors import EvaluationError
from weightsmith.evaluation.backends.llama_cpp.llama_cpp_model import LlamaCppModel
from weightsmith.evaluation.text_tokens import Messages
from weightsmith.tokenizer.chat_template import chat_text


class LlamaCppTokens:
    """The tokenizer of a loaded model; see `TextTokens`. `adds_bos`: llama.cpp puts the begin token first by itself."""

    def __init__(self, model: LlamaCppModel) -> None:
        library = model.library
        self._library, self._path, self._model = library, model.path, model
        self._vocabulary = model.vocabulary
        bos, eos = library.llama_vocab_bos(model.vocabulary), library.llama_vocab_eos(model.vocabulary)
        self.bos, self.eos = (bos if bos >= 0 else None), (eos if eos >= 0 else None)
        self.adds_bos = bool(library.llama_vocab_get_add_bos(model.vocabulary))
        self.template: str | None = model.metadata.get("tokenizer.chat_template")
        content = {key: str(value) for key, value in model.metadata.items() if key.startswith("tokenizer.")}
        self.fingerprint = hashlib.sha256(repr(sorted(content.items())).encode()).hexdigest()

    def ends(self, token: int) -> bool:
        """Whether an answer ends with it."""
        return bool(self._library.llama_vocab_is_eog(self._vocabulary, token))

    def encode(self, texts: Sequence[str], *, special: bool) -> list[np.ndarray]:
        return [self._encode(text, special) for text in texts]

    def _encode(self, text: str, special: bool) -> np.ndarray:
        raw = text.encode()
        room = len(raw) + 8
        out = (self._library.llama_token * room)()
        count = self._library.llama_tokenize(self._vocabulary, raw, len(raw), out, room, special, True)
        if count < 0:
            raise EvaluationError(
                f"{self._path}: llama.cpp cannot tokenize a text of {len(raw)} bytes", path=self._path
            )
        return np.array(out[:count], np.int32)

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        room = 64 * len(tokens) + 64
        out = ctypes.create_string_buffer(room)
        ids = (self._library.llama_token * len(tokens))(*tokens)
        count = self._library.llama_detokenize(self._vocabulary, ids, len(tokens), out, room, False, special)
        return out.raw[: max(count, 0)].decode(errors="replace")

    def chat(self, messages: Messages, *, answer: bool = True) -> str:
        if not self.template:
            raise EvaluationError(f"{self._path}: no chat template in it", path=self._path)
        return chat_text(self.template, messages, bos=self._text(self.bos), eos=self._text(self.eos), answer=answer)

    def _text(self, token: int | None) -> str:
        return self._library.llama_vocab_get_text(self._vocabulary, token).decode() if token is not None else ""
