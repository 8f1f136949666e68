"""Log-likelihoods by one forward pass per request, for models that trees do not work with (recurrent ones, ALiBi)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from weightsmith.evaluation.request import OnScores, Request, Score


@torch.inference_mode()
def score_plainly(
    model: Any, requests: Sequence[Request], *, budget: int, on_scores: OnScores | None = None
) -> list[Score]:
    """Scores in the order of `requests`, from batches of like length with at most `budget` tokens, padding included."""
    results: dict[int, Score] = {}
    keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
    by_length = sorted(range(len(requests)), key=lambda number: -len(requests[number].tokens))
    while by_length:
        width = len(requests[by_length[0]].inputs)
        batch, by_length = by_length[: max(1, budget // width)], by_length[max(1, budget // width) :]
        ids, mask = torch.zeros(len(batch), width, dtype=torch.long), torch.zeros(len(batch), width, dtype=torch.long)
        for row, number in enumerate(batch):
            inputs = torch.from_numpy(requests[number].inputs.astype("int64"))
            ids[row, : len(inputs)], mask[row, : len(inputs)] = inputs, 1
        first = min(len(requests[number].inputs) - requests[number].scored for number in batch)
        options = {"logits_to_keep": torch.arange(first, width, device=model.device)} if keeps else {}
        logits = model(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False, **options
        ).logits
        skipped = width - logits.shape[1]
        finished = []
        for row, number in enumerate(batch):
            request = requests[number]
            end = len(request.inputs) - skipped
            row_logits = logits[row, end - request.scored : end].float()
            targets = torch.from_numpy(request.tokens[-request.scored :].astype("int64")).to(model.device)
            log_likelihoods = row_logits.gather(1, targets[:, None])[:, 0] - row_logits.logsumexp(-1)
            most_likely = row_logits.argmax(-1)
            misses = (most_likely != targets).nonzero()[:1].flatten().tolist()
            miss = (misses[0], int(most_likely[misses[0]])) if misses else None
            results[number] = Score(float(log_likelihoods.sum()), miss is None, miss)
            finished.append((number, results[number]))
        if on_scores:
            on_scores(finished)
    return [results[number] for number in range(len(requests))]
