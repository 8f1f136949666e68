"""Text to token ids and back, as evaluation needs it, for tokenizers of `transformers`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from weightsmith.checkpoint.gguf_file import GGUFFile
from weightsmith.errors import EvaluationError
from weightsmith.tokenizer.gguf_tokenizer import tokenizer_from_gguf

Messages = list[dict[str, str]]  # role, content

_CHUNK = 512  # texts tokenized in one call


class TextTokens(Protocol):
    """`bos` and `eos`: token ids, or None; `template`: the chat template; `fingerprint`: equal where all token ids are."""

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
        """Messages through the chat template; `answer`: the model's turn begins, else the last message goes on."""
        ...


class TransformersTokens:
    """A tokenizer folder, or the one rebuilt from a GGUF file's metadata."""

    def __init__(self, home: Path) -> None:
        self.tokenizer = _load(home)
        self.bos, self.eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        template = self.tokenizer.chat_template
        self.template = template.get("default") if isinstance(template, dict) else template
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        inside = backend.to_str() if backend else json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        self.fingerprint = hashlib.sha256(inside.encode()).hexdigest()

    def encode(self, texts: Sequence[str], *, special: bool) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        for start in range(0, len(texts), _CHUNK):
            some = list(texts[start : start + _CHUNK])
            ids = self.tokenizer(some, add_special_tokens=special, return_attention_mask=False, verbose=False)[
                "input_ids"
            ]
            found += [np.array(one, np.int32) for one in ids]
        return found

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        return self.tokenizer.decode(list(tokens), skip_special_tokens=not special)

    def chat(self, messages: Messages, *, answer: bool = True) -> str:
        from jinja2 import TemplateError

        form: dict[str, Any] = {
            "tokenize": False, "add_generation_prompt": answer, "continue_final_message": not answer
        }  # fmt: skip
        try:
            return self.tokenizer.apply_chat_template(messages, **form)
        except TemplateError as error:
            plain = [message for message in messages if message["role"] != "system"]  # some templates know no system
            if len(plain) == len(messages):
                raise EvaluationError(f"the model's chat template cannot be rendered: {error}") from error
            return self.chat(plain, answer=answer)
        except ValueError as error:
            raise EvaluationError(f"the model's chat template cannot be used: {error}") from error


@lru_cache(maxsize=8)
def _load(home: Path) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if home.is_file():
        file = GGUFFile(home)
        rebuilt, config = tokenizer_from_gguf(file)
        del config["tokenizer_class"]
        template = file.metadata.get("tokenizer.chat_template")
        return PreTrainedTokenizerFast(tokenizer_object=rebuilt, chat_template=template, **config)
    try:
        return AutoTokenizer.from_pretrained(str(home), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EvaluationError(f"{home}: its tokenizer cannot be loaded: {reason}") from error
