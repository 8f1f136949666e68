"""Tensors of a checkpoint that are not weights of the model, and the reason for each. This is the only place that
knows.

A reason begins with its group, by which a summary counts them: `buffer: rotary frequencies`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.checkpoint import TensorInfo
from weightsmith.errors import CheckpointError
from weightsmith.models.parts.embeddings import OUTPUTS, is_tied

TIED = "tied output matrix: the embedding under a second name"
OTHER_PART = "tensor of other parts: not of the language model"
# Older versions saved these although they are computed or counted.
_BUFFERS = (
    (re.compile(r"(.*\.)?(rotary_(pos_)?emb\.inv_freq|rope\.freqs)"), "buffer: rotary frequencies"),
    (re.compile(r"(.*\.)?masked_bias"), "buffer: the value of masked positions"),
    (re.compile(r"(.*\.)?decoder\.version"), "buffer: a version number"),
)
_CAUSAL_MASK = re.compile(r".*\.(attn|attention|self_attention)\.bias")  # four dimensions; a real bias has one
# Integers that classes of transformers keep beside their weights. Any other integer tensor is a packed weight.
_INTEGERS = re.compile(
    r"(.*\.)?(position_ids|token_type_ids|num_batches_tracked|relative_position_index|version|attn\.bias|attention\.bias"
    r"|bias_mask|attn_mask|codebook\.\w+|initialized|inited|cluster_size|step|tid2eid|summary_idxs|token_ordering"
    r"|latent_stats_num_updates|ngram_heads_(vocab_sizes|offsets)|group_idx)"
)
_PLURALS = {
    "buffer": "buffers",
    "quantization parameter": "quantization parameters",
    "tied output matrix": "tied output matrices",
    "tensor of other parts": "tensors of other parts",
}


def buffer_reason(name: str, info: TensorInfo) -> str | None:
    """Why a tensor is a buffer and not a weight; None where it is a weight."""
    for pattern, reason in _BUFFERS:
        if pattern.fullmatch(name):
            return reason
    return "buffer: causal mask" if len(info.shape) == 4 and _CAUSAL_MASK.fullmatch(name) else None


def check_integers(path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Raises CheckpointError for a tensor of integers that is no known buffer: weights are floating point, and what is
    packed into integers cannot be averaged."""
    for name, info in tensors.items():
        if not info.is_float and not _INTEGERS.fullmatch(name):
            raise CheckpointError(
                f"{path}: tensor {name!r} holds integers ({info.dtype} {list(info.shape)}) and is no buffer that is "
                "known; it may be a weight of a quantized model whose config.json does not say how. Take the model "
                "that is not quantized",
                path=path,
            )


def buffers_among(tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Name -> reason of every buffer."""
    reasons = {name: buffer_reason(name, info) for name, info in tensors.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def tied_twins(aliases: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, str]:
    """Name -> reason of output matrices that are the embedding under a second name (`aliases`), where config.json ties
    the two."""
    twins = {name: TIED for pair in aliases.items() for name in pair if name.endswith(OUTPUTS)}
    return twins if twins and is_tied(config) else {}


def count_left_out(reasons: Iterable[str]) -> str:
    """`32 buffers left out, 1 tied output matrix left out`; empty where nothing is."""
    counts = Counter(reason.partition(":")[0] for reason in reasons)
    return ", ".join(
        f"{count} {group if count == 1 else _PLURALS.get(group, group)} left out" for group, count in counts.items()
    )
