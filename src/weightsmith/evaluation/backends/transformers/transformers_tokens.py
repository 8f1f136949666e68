"""Text to token ids and back by a tokenizer of `transformers`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from weightsmith.errors import EvaluationError
from weightsmith.evaluation.text_tokens import Messages
from weightsmith.tokenizer.load_tokenizer import load_tokenizer
from weightsmith.tokenizer.untrusted.chat_template import chat_text

_CHUNK = 512  # texts tokenized in one call


class TransformersTokens:
    """A tokenizer folder, or the one rebuilt from a GGUF file's metadata."""

    def __init__(self, home: Path) -> None:
        self._home, self.tokenizer = home, load_tokenizer(home)
        self.bos, self.eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        template = self.tokenizer.chat_template
        self.template = template.get("default") if isinstance(template, dict) else template
        self._special_tokens = {
            name: value for name, value in self.tokenizer.special_tokens_map.items() if isinstance(value, str | list)
        }
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        content = backend.to_str() if backend else json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()

    def encode(self, texts: Sequence[str], *, special: bool) -> list[np.ndarray]:
        encoded: list[np.ndarray] = []
        for start in range(0, len(texts), _CHUNK):
            chunk = list(texts[start : start + _CHUNK])
            ids = self.tokenizer(chunk, add_special_tokens=special, return_attention_mask=False, verbose=False)[
                "input_ids"
            ]
            encoded += [np.array(token_ids, np.int32) for token_ids in ids]
        return encoded

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        return self.tokenizer.decode(list(tokens), skip_special_tokens=not special)

    def chat(self, messages: Messages, *, answer: bool = True) -> str:
        if not self.template:
            raise EvaluationError(f"{self._home}: has no chat template", path=self._home)
        return chat_text(self.template, messages, special_tokens=self._special_tokens, answer=answer)
