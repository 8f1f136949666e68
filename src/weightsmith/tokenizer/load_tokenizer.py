"""A model's tokenizer as one of `transformers`; no code of the model's is run."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.errors import EvaluationError
from weightsmith.tokenizer.gguf_tokenizer import tokenizer_from_gguf

_READ = (".json", ".jinja", ".txt", ".model")


def load_tokenizer(home: Path) -> Any:
    """The tokenizer of a folder, or the one rebuilt from a GGUF file's metadata; loaded again where its files have
    changed. Raises EvaluationError."""
    files = [home] if home.is_file() else [path for path in sorted(home.iterdir()) if path.suffix in _READ]
    stats = [path.stat() for path in files]
    return _load(home, tuple((state.st_size, state.st_mtime_ns, state.st_ino) for state in stats))


@lru_cache(maxsize=8)
def _load(home: Path, stamps: tuple[tuple[int, int, int], ...]) -> Any:
    """`stamps`: sizes and times of its files, which tell two tokenizers at one place apart."""
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
