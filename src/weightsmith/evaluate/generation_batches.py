"""Which questions are answered together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from weightsmith.evaluate.prefix_tree import in_order


def generation_batches(
    prompts: Sequence[np.ndarray], limit: int, positions: int, most: int = 1 << 30
) -> Iterator[list[int]]:
    """Numbers of int32 `prompts`, the longest first: as many as have room in `positions`, each padded to the longest of its batch
    and with `limit` tokens to come, at most `most`; within a batch sorted, so that those with a common beginning are neighbours."""
    longest_first = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    while longest_first:
        count = min(most, max(1, positions // (len(prompts[longest_first[0]]) + limit)))
        batch, longest_first = longest_first[:count], longest_first[count:]
        yield [batch[place] for place in in_order([prompts[number] for number in batch])]
