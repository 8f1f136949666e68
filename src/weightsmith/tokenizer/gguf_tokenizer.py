"""A tokenizer rebuilt from GGUF metadata (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer)."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.errors import CheckpointError

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # values of tokenizer.ggml.token_type
_ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def tokenizer_from_gguf(file: GGUFFile) -> tuple[Any, dict[str, Any]]:
    """(`tokenizers.Tokenizer`, what its tokenizer_config.json says). It cuts text as llama.cpp does.

    Byte-level BPE (`gpt2`) and SentencePiece BPE (`llama`) are read. Raises CheckpointError for other kinds, for a
    pre-tokenizer that is not known, and for metadata that cannot be true.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise CheckpointError(
            f"{file.path}: rebuilding the tokenizer of a GGUF file needs `pip install 'weightsmith[gguf]'`",
            path=file.path,
        ) from error
    tokenizer_model = file.metadata.get("tokenizer.ggml.model")
    tokens = _texts(file, "tokenizer.ggml.tokens")
    types = file.metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    if len(types) != len(tokens):
        raise CheckpointError(f"{file.path}: {len(tokens)} tokens have {len(types)} types", path=file.path)
    if tokenizer_model == "gpt2":
        tokenizer, bos = _byte_level(file, tokens)
    elif tokenizer_model == "llama":
        tokenizer, bos = _sentencepiece(file, tokens, types)
    else:
        raise CheckpointError(
            f"{file.path}: its tokenizer has the type {tokenizer_model!r}, which cannot be rebuilt; known: gpt2, "
            "llama. "
            "Use the model's safetensors folder instead",
            path=file.path,
        )
    added = [
        tokenizers.AddedToken(token, special=type_ == _CONTROL, normalized=False)
        for token, type_ in zip(tokens, types, strict=True)
        if type_ in (_CONTROL, _USER_DEFINED)
    ]
    tokenizer.add_tokens(added)
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for role, key in _ROLES.items():
        number = file.metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(number, int) and 0 <= number < len(tokens):
            config[role] = tokens[number]
    if file.metadata.get("tokenizer.ggml.add_bos_token", bos) and "bos_token" in config:
        first = config["bos_token"]
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{first} $A", pair=f"{first} $A {first} $B", special_tokens=[(first, tokens.index(first))]
        )
    return tokenizer, config


def _texts(file: GGUFFile, key: str) -> list[str]:
    value = file.metadata.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise CheckpointError(
            f"{file.path}: {key} is not a list of texts; the tokenizer cannot be rebuilt", path=file.path
        )
    return value


def _byte_level(file: GGUFFile, tokens: list[str]) -> tuple[Any, bool]:
    """(tokenizer, whether llama.cpp puts the begin token first by default)."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    known = json.loads((resources.files("weightsmith.tokenizer") / "pre_tokenizers.json").read_text(encoding="utf-8"))
    name = file.metadata.get("tokenizer.ggml.pre")
    if name not in known["names"]:
        raise CheckpointError(
            f"{file.path}: its pre-tokenizer is {name!r}, which cannot be rebuilt; known: {', '.join(known['names'])}. "
            "Use the model's safetensors folder instead",
            path=file.path,
        )
    merges = []
    for line in _texts(file, "tokenizer.ggml.merges"):
        cut = line.find(" ", 1)
        if cut < 0:
            raise CheckpointError(f"{file.path}: {line!r} in tokenizer.ggml.merges is not a pair", path=file.path)
        merges.append((line[:cut], line[cut + 1 :]))
    whole_words_first = name in known["whole_words_first"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    try:
        tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=whole_words_first))
    except Exception as error:  # the library raises bare Exception, as for a merge of tokens that do not exist
        raise CheckpointError(f"{file.path}: its BPE merges do not fit its tokens: {error}", path=file.path) from error
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in known["patterns"][known["names"][name]]]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, whole_words_first


def _sentencepiece(file: GGUFFile, tokens: list[str], types: list[int]) -> tuple[Any, bool]:
    scores = file.metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise CheckpointError(f"{file.path}: tokenizer.ggml.scores does not have one score per token", path=file.path)
    prefix = bool(file.metadata.get("tokenizer.ggml.add_space_prefix", True))
    return sentencepiece_bpe(tokens, scores, types, prefix=prefix), True


def sentencepiece_bpe(tokens: list[str], scores: list[float], types: list[int], *, prefix: bool) -> Any:
    """A `tokenizers.Tokenizer` that cuts text as SentencePiece's BPE does, which keeps scores and no merges: whatever
    two tokens make a third merge, by the third's score. `prefix`: a text gets a space in front."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    vocabulary = {token: i for i, token in enumerate(tokens)}
    pairs: list[tuple[float, int, int, tuple[str, str]]] = []
    for token, score in zip(tokens, scores, strict=True):
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                pairs.append((-score, vocabulary[left], vocabulary[right], (left, right)))
    pairs.sort()
    unknown = next((token for token, type_ in zip(tokens, types, strict=True) if type_ == _UNKNOWN), None)
    merges = [pair for *_, pair in pairs]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    space = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space]) if prefix else space
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    return tokenizer
