"""A GGUF file loaded into llama.cpp's memory."""

from __future__ import annotations

import weakref
from collections import Counter
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.errors import EvaluationError, shown
from weightsmith.llama_cpp import collect_errors, load_llama_cpp

_CACHE_BYTES = 2  # of a key or a value, in float16


class LlamaCppModel:
    """A model that llama.cpp holds for as long as this object lives. `metadata` is the file's."""

    def __init__(self, path: Path, *, vocabulary_only: bool = False) -> None:
        """`vocabulary_only`: the tokenizer without the weights. Raises EvaluationError where llama.cpp cannot load
        it."""
        self.library: Any = load_llama_cpp()
        self.path = path
        self.metadata = GGUFFile(path).metadata  # also refuses a file that is cut short, before native code reads it
        tokens = self.metadata.get("tokenizer.ggml.tokens") or []
        if len(set(tokens)) < len(tokens):  # llama.cpp would end the process
            (token, _), *_ = Counter(tokens).most_common(1)
            raise EvaluationError(f"{path}: its vocabulary has the token {shown(token)} twice", path=path)
        parameters = self.library.llama_model_default_params()
        parameters.vocab_only = vocabulary_only
        parameters.n_gpu_layers = 0
        errors: list[str] = []
        with collect_errors(errors):
            self.pointer = self.library.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.pointer:
            raise EvaluationError(f"{path}: llama.cpp cannot load it" + (f": {errors[0]}" if errors else ""))
        weakref.finalize(self, self.library.llama_model_free, self.pointer)
        self.vocabulary: Any = self.library.llama_model_get_vocab(self.pointer)

    @property
    def vocabulary_size(self) -> int:
        return self.library.llama_vocab_n_tokens(self.vocabulary)

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
