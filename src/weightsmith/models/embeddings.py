"""Embedding and output matrices: how families name them, and whether a model ties the two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from weightsmith.checkpoint.checkpoint import TensorInfo

EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "wte.weight", "embed_in.weight", "tok_embeddings.weight")
OUTPUTS = ("lm_head.weight", "embed_out.weight", "output_projection.weight")
# Families whose class ties the two where config.json says nothing.
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
    "gpt_bigcode",
    "starcoder2",
}


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the output matrix is the embedding."""
    declared = config.get("tie_word_embeddings")
    return declared if isinstance(declared, bool) else config.get("model_type") in _TIED_BY_DEFAULT


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
