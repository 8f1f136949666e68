"""Which token comes next."""

from __future__ import annotations

import torch

from weightsmith.evaluation.backend import Sampling


def next_tokens(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> torch.Tensor:
    """int64 [rows] from float [rows, vocabulary]: the most likely ones, or drawn after temperature, top-k and top-p
    (nucleus sampling, https://arxiv.org/abs/1904.09751), in this order, as transformers applies them."""
    if sampling.temperature <= 0:
        return logits.argmax(-1)
    logits = logits.float() / sampling.temperature
    if sampling.top_k:
        smallest = logits.topk(min(sampling.top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if sampling.top_p < 1:
        ordered, token_ids = logits.sort(descending=True)
        shares = ordered.softmax(-1)
        dropped = shares.cumsum(-1) - shares >= sampling.top_p  # the first is always kept
        logits = logits.masked_fill(torch.zeros_like(dropped).scatter(1, token_ids, dropped), -torch.inf)
    drawn = torch.multinomial(logits.softmax(-1).to(generator.device), 1, generator=generator)[:, 0]
    return drawn.to(logits.device)
