"""Where the vocabularies of two models differ, token by token."""

from __future__ import annotations

from dataclasses import dataclass

from weightsmith.tokenizer.vocabulary import Vocabulary


@dataclass(frozen=True)
class VocabularyDifference:
    """`only_base`, `only_other`: token and row of what the other lacks; `moved`: token, its row in the base, its row in
    the other; `padding`: how many rows have no token, in the base and in the other; `free`: which, such as `50295 to
    51199`."""

    rows: tuple[int, int]
    only_base: tuple[tuple[str, int], ...]
    only_other: tuple[tuple[str, int], ...]
    moved: tuple[tuple[str, int, int], ...]
    padding: tuple[int, int]
    free: tuple[str, str]

    @property
    def same_tokens(self) -> bool:
        return not (self.only_base or self.only_other or self.moved)

    @property
    def union(self) -> int:
        """Tokens of both together."""
        return self.rows[0] - self.padding[0] + len(self.only_other)


def compare_vocabularies(base: Vocabulary, other: Vocabulary) -> VocabularyDifference:
    """Token by token; tokens without an embedding are left aside."""
    base_rows, other_rows = base.used, other.used
    return VocabularyDifference(
        rows=(base.rows, other.rows),
        only_base=tuple(
            (t, base_rows[t]) for t in sorted(base_rows.keys() - other_rows.keys(), key=base_rows.__getitem__)
        ),
        only_other=tuple(
            (t, other_rows[t]) for t in sorted(other_rows.keys() - base_rows.keys(), key=other_rows.__getitem__)
        ),
        moved=tuple(
            (t, base_rows[t], other_rows[t])
            for t in sorted(base_rows.keys() & other_rows.keys(), key=base_rows.__getitem__)
            if base_rows[t] != other_rows[t]
        ),
        padding=(base.rows - len(set(base_rows.values())), other.rows - len(set(other_rows.values()))),
        free=(_free(base), _free(other)),
    )


def _free(vocabulary: Vocabulary) -> str:
    """The rows without a token as ranges, at most three of them."""
    rows = sorted(set(range(vocabulary.rows)) - set(vocabulary.used.values()))
    ranges: list[list[int]] = []
    for row in rows:
        if ranges and row == ranges[-1][1] + 1:
            ranges[-1][1] = row
        else:
            ranges.append([row, row])
    shown = [str(a) if a == b else f"{a} to {b}" for a, b in ranges[:3]]
    return ", ".join(shown) + (", ..." if len(ranges) > 3 else "")
