"""Embedding and output matrices: how families name them, and whether a model ties the two."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from weightsmith.checkpoint.checkpoint import TensorInfo

EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "wte.weight", "embed_in.weight", "tok_embeddings.weight")
OUTPUTS = ("lm_head.weight", "embed_out.weight", "output_projection.weight")
# Tables of embeddings and heads: their rows are tokens, positions and classes.
EMBEDDING_OR_HEAD = re.compile(
    r"(^|[._])(\w*embed\w*|wte|wpe|lm_head|embed_out|score|classifier|shared|pos_emb\w*|proj_out)\.(weight|bias)$"
)
# Families whose class ties the two where config.json says nothing; of others transformers is asked, if it is installed.
_TIED_BY_DEFAULT = {
    "gpt2",
    "bloom",
    "opt",
    "falcon",
    "mpt",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "gemma3n",
    "gemma3n_text",
    "gemma4",
    "gemma4_text",
    "gpt_bigcode",
    "starcoder2",
    "cohere",
    "cohere2",
    "lfm2",
    "lfm2_moe",
    "mistral3",
    "paligemma",
    "t5",
    "bert",
    "bart",
    "whisper",
}


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the output matrix is the embedding, where a model does not store one of its own: as config.json says,
    else as the class does by default."""
    declared = config.get("tie_word_embeddings")
    return declared if isinstance(declared, bool) else _tied_by_default(str(config.get("model_type")))


@lru_cache(maxsize=64)
def _tied_by_default(model_type: str) -> bool:
    if model_type in _TIED_BY_DEFAULT:
        return True
    try:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    except ImportError:
        return False
    try:
        return bool(getattr(CONFIG_MAPPING[model_type](), "tie_word_embeddings", False))
    except Exception:  # a type that is not known, or a class that needs arguments
        return False


def untied(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a model that stores an output matrix of its own."""
    parts = {
        key: value | {"tie_word_embeddings": False}
        for key, value in config.items()
        if isinstance(value, dict) and key.endswith("_config") and value.get("tie_word_embeddings")
    }
    return {**config, **parts, "tie_word_embeddings": False}


def embedding_name(tensors: Iterable[str]) -> str | None:
    """The token embedding's name."""
    return next((name for name in tensors if name.endswith(EMBEDDINGS)), None)


def embedding_rows(tensors: Mapping[str, TensorInfo]) -> int | None:
    """How many tokens have an embedding; None: there is no embedding."""
    name = embedding_name(tensors)
    return tensors[name].shape[0] if name and tensors[name].shape else None


def output_name(tensors: Iterable[str]) -> str | None:
    """The output matrix's name; None: there is none beside the embedding."""
    return next((name for name in tensors if name.endswith(OUTPUTS)), None)


def is_over_vocabulary(name: str) -> bool:
    """Whether a tensor has a row for each token; an output matrix may have a bias."""
    return name.endswith((*EMBEDDINGS, *OUTPUTS)) or name in ("lm_head.bias", "embed_out.bias")
