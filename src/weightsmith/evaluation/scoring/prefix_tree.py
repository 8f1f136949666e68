"""Token sequences as a tree in which every shared prefix is computed once.

Sequences are sorted, so that those with a common prefix follow each other. What a model then has to do is a list of
steps: a pack, the nodes of a subtree in one forward pass, each attending to its ancestors alone; or a stem, a prefix
that is too large to be repeated in every pack below it and whose keys and values are kept until those are done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

_SHORTEST_STEM = 16  # tokens: what is shorter is cheaper to compute again than to keep


@dataclass(frozen=True)
class Step:
    """Some nodes in one pass. `tokens`, `positions` and `parents` run parallel: int64 [n]; a parent is a node before it
    in this step, or -1 for the last one of the stems. `paths`: for each sequence that ends or continues here (its
    number in the sorted list), the nodes of its own, from position `depth` on. `stem`: keys and values are kept for the
    steps that follow, up to the `crop` of one of them: how many positions are left when that one begins."""

    tokens: np.ndarray
    positions: np.ndarray
    parents: np.ndarray
    paths: dict[int, np.ndarray]
    depth: int
    stem: bool

    def ends(self) -> np.ndarray:
        """int64 [n]: the first node that is no descendant. Nodes come in the order of a walk, so that `node` attends to
        those at or before it whose end lies behind it, and to all stems."""
        ends = np.arange(1, len(self.tokens) + 1)
        for node in range(len(ends) - 1, 0, -1):
            parent = self.parents[node]
            if parent >= 0 and ends[parent] < ends[node]:
                ends[parent] = ends[node]
        return ends


@dataclass(frozen=True)
class _Tree:
    """Sorted sequences, and how many first tokens each shares with the one before it."""

    sequences: Sequence[np.ndarray]
    shared: Sequence[int]
    budget: int
    most: int

    def nodes(self, low: int, high: int, depth: int) -> int:
        """Nodes in the subtree of sequences `low` to `high`, beyond `depth`."""
        return sum(len(self.sequences[k]) - max(depth, self.shared[k] if k > low else depth) for k in range(low, high))


def in_order(sequences: Sequence[np.ndarray]) -> list[int]:
    """The numbers of int32 sequences in the order that `steps` needs: by their tokens, a prefix before what continues
    it."""
    return sorted(range(len(sequences)), key=lambda number: sequences[number].astype(">i4").tobytes())


def steps(sequences: Sequence[np.ndarray], budget: int, most: int = 1 << 30) -> Iterator[Step]:
    """What to compute, in order, for sorted `sequences` of int32, none of them empty. A step holds at most `budget`
    nodes, a pack at most `most` sequences. Before a step, keys and values beyond its `depth` are dropped."""
    shared = [0, *(common_prefix(a, b) for a, b in pairwise(sequences))]
    yield from _walk(_Tree(sequences, shared, budget, most), 0, len(sequences), 0)


def count_nodes(sequences: Sequence[np.ndarray]) -> int:
    """How many tokens a model has to read for sorted `sequences`, each shared prefix once."""
    return sum(map(len, sequences)) - sum(common_prefix(a, b) for a, b in pairwise(sequences))


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """How many first elements are equal."""
    length = min(len(a), len(b))
    differs = a[:length] != b[:length]
    return int(differs.argmax()) if differs.any() else length


def _walk(tree: _Tree, low: int, high: int, depth: int) -> Iterator[Step]:
    nodes = tree.nodes(low, high, depth)
    if not nodes:  # all of them end where the last stem does
        return
    if high - low == 1:
        begin = depth + (nodes - 1) // tree.budget * tree.budget
        yield from _stem(tree, low, high, depth, begin)
        yield _pack(tree, low, high, begin)
        return
    if nodes <= tree.budget and high - low <= tree.most:
        yield _pack(tree, low, high, depth)
        return
    common = min(len(tree.sequences[low]), *tree.shared[low + 1 : high])
    if common - depth >= _SHORTEST_STEM:
        yield from _stem(tree, low, high, depth, common)
        depth = common
    begin, filled = low, 0
    for first, last in _children(tree, low, high, common):
        size = tree.nodes(first, last, depth)
        if first > begin and (filled + size > tree.budget or last - begin > tree.most):
            yield from _walk(tree, begin, first, depth)
            begin, filled = first, 0
        filled += size
    yield from _walk(tree, begin, high, depth)


def _children(tree: _Tree, low: int, high: int, common: int) -> Iterator[tuple[int, int]]:
    """Ranges of sequences that share more than `common` tokens."""
    begin = low
    for k in range(low + 1, high):
        if tree.shared[k] <= common:
            yield begin, k
            begin = k
    yield begin, high


def _stem(tree: _Tree, low: int, high: int, depth: int, common: int) -> Iterator[Step]:
    """Positions `depth` to `common`, in steps of the budget."""
    for begin in range(depth, common, tree.budget):
        end = min(begin + tree.budget, common)
        nodes = np.arange(end - begin)
        yield Step(
            tree.sequences[low][begin:end].astype(np.int64),
            np.arange(begin, end),
            nodes - 1,
            {k: nodes for k in range(low, high)},
            begin,
            True,
        )


def _pack(tree: _Tree, low: int, high: int, depth: int) -> Step:
    tokens: list[int] = []
    positions: list[int] = []
    parents: list[int] = []
    paths: dict[int, np.ndarray] = {}
    path: list[int] = []
    for k in range(low, high):
        kept = max(0, tree.shared[k] - depth) if k > low else 0
        path = path[:kept]
        for token in tree.sequences[k][depth + kept :].tolist():
            parents.append(path[-1] if path else -1)
            path.append(len(tokens))
            tokens.append(token)
            positions.append(depth + len(path) - 1)
        paths[k] = np.array(path, np.int64)
    return Step(np.array(tokens, np.int64), np.array(positions), np.array(parents), paths, depth, False)
