"""Attention in bfloat16 by matrix products, which processors that multiply bfloat16 do about 1.5 times as fast as
torch's fused kernel.

Scores are rounded to bfloat16 before the softmax, as in transformers' own "eager" attention. What this does not cover
goes to transformers' "sdpa".
"""

from __future__ import annotations

from typing import Any

import torch

NAME = "weightsmith"
_ROWS = 512  # queries at once: scores take 2 bytes per query, key and head of a group
_CAUSAL_ROWS = 128  # fewer where a mask is triangular: keys behind the last query are left out
_ELSEWHERE = ("softcap", "s_aux", "position_bias", "head_mask", "cache")


def use_bfloat16_attention(model: Any) -> None:
    """Make a bfloat16 model compute by it, where it would use sdpa."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if getattr(model.config, "_attn_implementation", None) != "sdpa":
        return
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """bfloat16 [1, heads, queries, head size] on keys and values with as many or fewer heads -> [1, queries, heads,
    size]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    rows, positions = query.shape[2], key.shape[2]
    causal = attention_mask is None and rows == positions and options.get("is_causal") is not False
    masked = attention_mask is not None and attention_mask.is_floating_point() and attention_mask.shape[1] == 1
    if (
        len(query) > 1
        or rows == 1
        or query.dtype != torch.bfloat16
        or any(options.get(name) is not None for name in _ELSEWHERE)
        or not (masked or (causal and getattr(module, "is_causal", True)))
    ):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    query = query[0] * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    out = query.new_empty(rows, len(query), value.shape[-1])
    for first in range(0, rows, size := _CAUSAL_ROWS if causal else _ROWS):
        last = min(first + size, rows)
        seen = last if causal else positions
        if attention_mask is None:
            mask = query.new_full((last - first, seen), torch.finfo(query.dtype).min).triu(first + 1)
        else:
            mask = attention_mask[0, 0, first:last]
        out[first:last] = _attend_rows(query[:, first:last], key[0, :, :seen], value[0, :, :seen], mask)
    return out[None], None


def _attend_rows(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[queries, heads, size] of scaled [heads, queries, size]; heads that share keys are multiplied together."""
    heads, rows, _ = query.shape
    group = heads // len(key)
    out = query.new_empty(heads, rows, value.shape[-1])
    for number in range(len(key)):
        group_rows = slice(number * group, (number + 1) * group)
        scores = torch.mm(query[group_rows].reshape(group * rows, -1), key[number].t()).view(group, rows, -1)
        scores += mask
        weights = scores.softmax(-1).view(group * rows, -1)
        out[group_rows] = torch.mm(weights, value[number]).view(group, rows, -1)
    return out.transpose(0, 1)
