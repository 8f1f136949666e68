"""Which positions attend to which, in the form that transformers takes."""

from __future__ import annotations

from typing import Any

import torch


def attention_masks(
    model: Any, visible: torch.Tensor, positions: torch.Tensor, key_positions: torch.Tensor
) -> torch.Tensor | dict[str, torch.Tensor]:
    """[rows, 1, queries, keys] in the model's dtype, 0 where `visible` (bool [rows, queries, keys]) and the smallest
    number elsewhere; by kind of layer where some see a window only. `positions`: int64 [rows, queries];
    `key_positions`: int64 [rows, keys]."""
    config = model.config
    window, layer_types = getattr(config, "sliding_window", None), set(getattr(config, "layer_types", None) or ())
    if not window or (layer_types and "sliding_attention" not in layer_types):
        return _additive(visible, model.dtype)
    near = _additive(visible & (positions[..., None] - key_positions[:, None] < window), model.dtype)
    return {"full_attention": _additive(visible, model.dtype), "sliding_attention": near} if layer_types else near


def _additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
