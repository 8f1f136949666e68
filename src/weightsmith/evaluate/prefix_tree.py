"""Token sequences as a tree in which every shared prefix is computed once.

Sequences are sorted, so that those with a common prefix follow each other. What a model then has to do is a list of steps: a pack,
the nodes of a subtree in one forward pass, each attending to its ancestors alone; or a stem, a prefix that is too large to be
repeated in every pack below it and whose keys and values are kept until those are done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

_SHORTEST_STEM = 16  # tokens: what is shorter is cheaper to compute again than to keep


@dataclass(frozen=True)
class Step:
    """Some nodes in one pass. `tokens`, `positions` and `parents` run parallel: int64 [n]; a parent is a node before it in this
    step, or -1 for the last one of the stems. `paths`: for each sequence that ends or goes on here (its number in the sorted list),
    the nodes of its own, from position `depth` on. `stem`: keys and values are kept for the steps that follow, up to the `crop` of
    one of them: how many positions are left when that one begins."""

    tokens: np.ndarray
    positions: np.ndarray
    parents: np.ndarray
    paths: dict[int, np.ndarray]
    depth: int
    stem: bool

    def mask(self) -> np.ndarray:
        """bool [n, depth + n]: what each node attends to, the stems and then the nodes of this step."""
        count = len(self.tokens)
        seen = np.zeros((count, self.depth + count), bool)
        seen[:, : self.depth] = True
        for node in range(count):
            if self.parents[node] >= 0:
                seen[node, self.depth :] = seen[self.parents[node], self.depth :]
            seen[node, self.depth + node] = True
        return seen


def steps(sequences: Sequence[Sequence[int]], budget: int) -> Iterator[Step]:
    """What to compute, in order, for sorted `sequences`, none of them empty; packs hold at most `budget` nodes, unless a single
    sequence has more of its own. Before a step, keys and values beyond its `depth` are dropped."""
    shared = [0, *(_common(a, b) for a, b in pairwise(sequences))]
    yield from _walk(sequences, shared, 0, len(sequences), 0, budget)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count


def _nodes(sequences: Sequence[Sequence[int]], shared: Sequence[int], low: int, high: int, depth: int) -> int:
    """In the subtree of sequences `low` to `high`, beyond `depth`."""
    return sum(len(sequences[k]) - max(depth, shared[k] if k > low else depth) for k in range(low, high))


def _walk(
    sequences: Sequence[Sequence[int]], shared: Sequence[int], low: int, high: int, depth: int, budget: int
) -> Iterator[Step]:
    nodes = _nodes(sequences, shared, low, high, depth)
    if not nodes:  # all of them end where the last stem does
        return
    if high - low == 1 or nodes <= budget:
        yield _pack(sequences, shared, low, high, depth)
        return
    common = min(len(sequences[low]), *shared[low + 1 : high])
    if common - depth >= _SHORTEST_STEM:
        yield _stem(sequences, low, high, depth, common)
        depth = common
    begin, filled = low, 0
    for first, last in _children(shared, low, high, common):
        size = _nodes(sequences, shared, first, last, depth)
        if first > begin and filled + size > budget:
            yield from _walk(sequences, shared, begin, first, depth, budget)
            begin, filled = first, 0
        filled += size
    yield from _walk(sequences, shared, begin, high, depth, budget)


def _children(shared: Sequence[int], low: int, high: int, common: int) -> Iterator[tuple[int, int]]:
    """Ranges of sequences that share more than `common` tokens."""
    begin = low
    for k in range(low + 1, high):
        if shared[k] <= common:
            yield begin, k
            begin = k
    yield begin, high


def _stem(sequences: Sequence[Sequence[int]], low: int, high: int, depth: int, common: int) -> Step:
    count = common - depth
    nodes = np.arange(count)
    return Step(
        np.array(sequences[low][depth:common], np.int64), np.arange(depth, common), nodes - 1,
        {k: nodes for k in range(low, high)}, depth, True,
    )  # fmt: skip


def _pack(sequences: Sequence[Sequence[int]], shared: Sequence[int], low: int, high: int, depth: int) -> Step:
    tokens: list[int] = []
    positions: list[int] = []
    parents: list[int] = []
    paths: dict[int, np.ndarray] = {}
    path: list[int] = []
    for k in range(low, high):
        kept = max(0, shared[k] - depth) if k > low else 0
        path = path[:kept]
        for token in sequences[k][depth + kept :]:
            parents.append(path[-1] if path else -1)
            path.append(len(tokens))
            tokens.append(token)
            positions.append(depth + len(path) - 1)
        paths[k] = np.array(path, np.int64)
    return Step(np.array(tokens, np.int64), np.array(positions), np.array(parents), paths, depth, False)
