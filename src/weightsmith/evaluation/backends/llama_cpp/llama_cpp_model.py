"""A GGUF file loaded into llama.cpp's memory, in the process that calls this."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.errors import EvaluationError
from weightsmith.llama_cpp import collect_errors, load_llama_cpp

_ALL_LAYERS = 1 << 20
_CACHE_BYTES = 2  # of a key or a value, in float16


class LlamaCppModel:
    """A model that llama.cpp holds for as long as this object lives, and its tokenizer."""

    def __init__(self, path: Path, *, vocabulary_only: bool = False, offload: bool = False) -> None:
        """`vocabulary_only`: the tokenizer without the weights; `offload`: all layers go to a GPU, if this llama.cpp
        can use one. Raises EvaluationError where llama.cpp cannot load it."""
        self.library: Any = load_llama_cpp()
        self.path = path
        parameters = self.library.llama_model_default_params()
        parameters.vocab_only = vocabulary_only
        self.offloaded = offload and bool(self.library.llama_supports_gpu_offload())
        parameters.n_gpu_layers = _ALL_LAYERS if self.offloaded else 0
        errors: list[str] = []
        with collect_errors(errors):
            self.pointer = self.library.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.pointer:
            raise EvaluationError(f"{path}: llama.cpp cannot load it" + (f": {errors[0]}" if errors else ""))
        weakref.finalize(self, self.library.llama_model_free, self.pointer)
        self._vocabulary: Any = self.library.llama_model_get_vocab(self.pointer)

    @property
    def vocabulary_size(self) -> int:
        return self.library.llama_vocab_n_tokens(self._vocabulary)

    @property
    def window(self) -> int | None:
        """Positions it was trained on; None where the file does not say."""
        return self.library.llama_model_n_ctx_train(self.pointer) or None

    @property
    def bytes_per_position(self) -> int:
        """Bytes of keys and values per position."""
        library, model = self.library, self.pointer
        head_size = library.llama_model_n_embd(model) // library.llama_model_n_head(model)
        heads = library.llama_model_n_layer(model) * library.llama_model_n_head_kv(model)
        return 2 * heads * head_size * _CACHE_BYTES

    @property
    def bos(self) -> int | None:
        token = self.library.llama_vocab_bos(self._vocabulary)
        return token if token >= 0 else None

    @property
    def eos(self) -> int | None:
        token = self.library.llama_vocab_eos(self._vocabulary)
        return token if token >= 0 else None

    @property
    def adds_bos(self) -> bool:
        """Whether llama.cpp puts the begin token first by itself."""
        return bool(self.library.llama_vocab_get_add_bos(self._vocabulary))

    def ends(self, token: int) -> bool:
        """Whether an answer ends with it."""
        return bool(self.library.llama_vocab_is_eog(self._vocabulary, token))

    def token_text(self, token: int) -> str:
        return self.library.llama_vocab_get_text(self._vocabulary, token).decode(errors="replace")

    def tokenize(self, text: str, *, special: bool) -> np.ndarray:
        """int32 ids; `special`: with what the model expects around a text."""
        raw = text.encode()
        room = len(raw) + 8
        out = (self.library.llama_token * room)()
        count = self.library.llama_tokenize(self._vocabulary, raw, len(raw), out, room, special, True)
        if count < 0:
            raise EvaluationError(f"{self.path}: llama.cpp cannot tokenize a text of {len(raw)} bytes", path=self.path)
        return np.array(out[:count], np.int32)

    def detokenize(self, tokens: Sequence[int], *, special: bool) -> str:
        """The text; special tokens are left out unless asked for."""
        room = 64 * len(tokens) + 64
        out = ctypes.create_string_buffer(room)
        ids = (self.library.llama_token * len(tokens))(*tokens)
        count = self.library.llama_detokenize(self._vocabulary, ids, len(tokens), out, room, False, special)
        return out.raw[: max(count, 0)].decode(errors="replace")
