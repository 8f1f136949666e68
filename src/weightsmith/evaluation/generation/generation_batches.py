"""Which questions are answered together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from weightsmith.evaluation.scoring.prefix_tree import in_order


def generation_batches(
    prompts: Sequence[np.ndarray], limit: int, position_limit: int, most_prompts: int = 1 << 30
) -> Iterator[list[int]]:
    """Numbers of int32 `prompts`, the longest first: as many as have room in `position_limit`, each padded to the
    longest of its batch and with `limit` tokens to come, at most `most_prompts`; within a batch sorted, so that those
    with a common beginning are neighbours."""
    longest_first = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    while longest_first:
        count = min(most_prompts, max(1, position_limit // (len(prompts[longest_first[0]]) + limit)))
        batch, longest_first = longest_first[:count], longest_first[count:]
        yield [batch[position] for position in in_order([prompts[number] for number in batch])]
