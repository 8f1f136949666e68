"""A model's tokenizer as one of `transformers`; no code of the model's is run."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.errors import EvaluationError
from weightsmith.tokenizer.gguf_tokenizer import tokenizer_from_gguf


@lru_cache(maxsize=8)
def load_tokenizer(home: Path) -> Any:
    """The tokenizer of a folder, or the one rebuilt from a GGUF file's metadata. Raises EvaluationError."""
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
        raise EvaluationError(f"{home}: its tokenizer cannot be loaded: {reason}", path=home) from error
