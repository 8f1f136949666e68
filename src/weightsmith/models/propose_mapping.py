"""A mapping between two namings that nobody described: a fine-tune is close to its base, so its values say which is
which.

Tensors are matched by shape and layer number first; where several have one shape, by the correlation of some of their
rows with the base's; what is left over may be parts that one side keeps in one tensor (query, key and value; gate and
up).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any

import torch

from weightsmith.checkpoint.checkpoint import Checkpoint, natural_key
from weightsmith.errors import CheckpointError
from weightsmith.models.model import Model
from weightsmith.models.naming.dimensions import dimensions
from weightsmith.models.naming.left_out import buffer_reason
from weightsmith.models.naming.scheme import Scheme, parse_scheme
from weightsmith.models.parts.stacks import LAYER

SOUND = 0.5  # correlation with the base below which a tensor is not taken for a fine-tune of it
_SAMPLED_ROWS, _SAMPLED_COLUMNS = 8, 4096


@dataclass(frozen=True)
class Match:
    """One line of a mapping: `rule` as in a naming scheme's file, and how sure it is (correlation with the base, -1 to
    1; None: both are the same constant, so that nothing can be mistaken)."""

    rule: list[Any]
    correlation: float | None

    @property
    def text(self) -> str:
        """`model.layers.{n}.mlp.up_proj.weight <- h.{n}.ff.w3 (correlation 0.998)`"""
        source = " + ".join(self.rule[1]) if isinstance(self.rule[1], list) else self.rule[1]
        layout = f" {_describe_layout(self.rule[2])}" if len(self.rule) > 2 else ""
        sure = "constant in both" if self.correlation is None else f"correlation {self.correlation:.3f}"
        return f"{self.rule[0]} <- {source}{layout} ({sure})"


@dataclass(frozen=True)
class Proposal:
    """A mapping of `other`'s tensors to the base's names."""

    matches: tuple[Match, ...]
    missing: tuple[str, ...]  # templates of the base that nothing in the other model fits
    left_over: tuple[str, ...]  # templates of the other model that fit nothing

    @property
    def doubtful(self) -> tuple[Match, ...]:
        return tuple(m for m in self.matches if m.correlation is not None and m.correlation < SOUND)

    @property
    def sound(self) -> bool:
        """Whether every tensor has its counterpart and looks like a fine-tune of it."""
        return bool(self.matches) and not (self.missing or self.left_over or self.doubtful)

    def as_file(self, family: str) -> str:
        """The mapping in the form of a naming scheme's file, to look at, edit, and give back."""
        rules = ",\n".join(f"    {json.dumps(match.rule)}" for match in self.matches)
        head = f'"family": {json.dumps(family)},\n  "layout": "proposed",\n  "detect": {{}},'
        config = '"config": {"set": {}, "rename": {}, "default": {}}'
        return f'{{\n  {head}\n  "tensors": [\n{rules}\n  ],\n  {config}\n}}\n'

    def scheme(self, family: str) -> Scheme:
        """The mapping as a naming scheme."""
        return parse_scheme(json.loads(self.as_file(family)))


@dataclass(frozen=True)
class _Group:
    """Tensors that differ in their layer number alone; a single tensor has no numbers."""

    template: str
    names: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def probes(self) -> tuple[int, ...]:
        """The layers that are looked at: the first and the last."""
        return tuple(sorted({0, len(self.names) - 1}))


def propose_mapping(base: Model, other: Model) -> Proposal:
    """How `other`'s tensors are the base's. Reads some rows of each; raises CheckpointError where weights cannot be
    read."""
    base_groups, other_groups = _groups(base.checkpoint), _groups(other.checkpoint)
    matches: list[Match] = []
    taken: set[str] = set()
    pairs = []
    for base_group in base_groups:
        for other_group in other_groups:
            for turned in (False, True):
                shape = other_group.shape[::-1] if turned else other_group.shape
                if (
                    len(base_group.names) != len(other_group.names)
                    or base_group.shape != shape
                    or (turned and (len(shape) != 2 or other_group.shape == base_group.shape))
                ):
                    continue
                score = _correlation(
                    base.checkpoint, other.checkpoint, base_group, [other_group], {"transpose": True} if turned else {}
                )
                pairs.append(
                    (score, _alike(base_group.template, other_group.template), base_group, other_group, turned)
                )
    square = [
        (base_group, other_group)
        for _, _, base_group, other_group, turned in pairs
        if len(base_group.shape) == 2 and base_group.shape[0] == base_group.shape[1] and not turned
    ]
    for base_group, other_group in square:  # a square matrix may be transposed without showing it
        score = _correlation(base.checkpoint, other.checkpoint, base_group, [other_group], {"transpose": True})
        if score is not None and score > SOUND:
            pairs.append((score, 0.0, base_group, other_group, True))
    order = sorted(pairs, key=lambda pair: (_rank(pair[0]), pair[1]), reverse=True)
    done: set[str] = set()
    for needed in (SOUND, -2.0):  # what is sure first, then fused parts, then what only its shape speaks for
        for score, _, base_group, other_group, turned in order:
            if base_group.template in done or other_group.template in taken or (score is not None and score < needed):
                continue
            rule: list[Any] = [base_group.template, other_group.template] + ([{"transpose": True}] if turned else [])
            matches.append(Match(rule, score))
            done.add(base_group.template)
            taken.add(other_group.template)
        if needed == SOUND:
            rest = (
                [base_group for base_group in base_groups if base_group.template not in done],
                [other_group for other_group in other_groups if other_group.template not in taken],
            )
            for match in _fused(base, other, *rest):
                matches.append(match)
                done.update([match.rule[0]])
                taken.update(match.rule[1] if isinstance(match.rule[1], list) else [match.rule[1]])
    matches.sort(key=lambda match: natural_key(match.rule[0]))
    infos = other.checkpoint.tensors
    left = [
        other_group
        for other_group in other_groups
        if other_group.template not in taken and not all(buffer_reason(n, infos[n]) for n in other_group.names)
    ]
    missing = tuple(base_group.template for base_group in base_groups if base_group.template not in done)
    return Proposal(tuple(matches), missing, tuple(other_group.template for other_group in left))


def _groups(checkpoint: Checkpoint) -> list[_Group]:
    names_by_template: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for name in checkpoint.tensors:
        if match := LAYER.match(name):
            names_by_template.setdefault((match[1], match[3]), []).append((int(match[2]), name))
        else:
            names_by_template[(name, "")] = [(0, name)]
    deepest: dict[str, int] = {}
    for (prefix, suffix), entries in names_by_template.items():
        if suffix:
            deepest[prefix] = max(deepest.get(prefix, 0), len(entries))
    groups = []
    for (prefix, suffix), entries in names_by_template.items():
        entries.sort()
        numbers, names = [n for n, _ in entries], tuple(name for _, name in entries)
        shapes = {checkpoint.tensors[name].shape for name in names}
        straight = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        if suffix and straight and len(shapes) == 1 and (len(names) > 1 or deepest[prefix] == 1):
            shift = f"+{numbers[0]}" if numbers[0] else ""
            groups.append(_Group(f"{prefix}{{n{shift}}}{suffix}", names, shapes.pop()))
        else:
            groups += [_Group(name, (name,), checkpoint.tensors[name].shape) for name in names]
    return groups


def _correlation(
    base: Checkpoint, other: Checkpoint, a: _Group, parts: Sequence[_Group], layout: Mapping[str, Any]
) -> float | None:
    """Mean over the probed layers of the correlation of sampled rows; None: both are the same constant."""
    scores = []
    for probe in a.probes:
        row_count = a.shape[0] if a.shape else 1
        rows_to_read = sorted({int(i) for i in torch.linspace(0, row_count - 1, min(row_count, _SAMPLED_ROWS))})
        left = (
            torch.cat([_row(base, a.names[probe], row) for row in rows_to_read])
            if len(a.shape) > 1
            else _row(base, a.names[probe], 0)
        )
        right = _sample(other, [part.names[probe] for part in parts], rows_to_read, layout, len(a.shape) > 1)
        scores.append(_pearson(left, right))
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known else None


def _sample(
    checkpoint: Checkpoint, names: Sequence[str], rows_to_read: Sequence[int], layout: Mapping[str, Any], matrix: bool
) -> torch.Tensor:
    if layout.get("transpose"):
        return torch.cat([_column(checkpoint, names[0], row) for row in rows_to_read])
    if "take_rows" in layout:  # where each row of the base's tensor lies in the fused one
        rows = layout["take_rows"]
        if matrix:
            return torch.cat([_row(checkpoint, names[0], int(rows[row])) for row in rows_to_read])
        return _row(checkpoint, names[0], 0)[rows]
    if not matrix:
        return torch.cat([_row(checkpoint, name, 0) for name in names])
    ends, sampled = _ends(checkpoint, names), []
    for row in rows_to_read:
        part = next(i for i, end in enumerate(ends) if row < end)
        sampled.append(_row(checkpoint, names[part], row - (ends[part - 1] if part else 0)))
    return torch.cat(sampled)


def _ends(checkpoint: Checkpoint, names: Sequence[str]) -> list[int]:
    total, ends = 0, []
    for name in names:
        total += checkpoint.tensors[name].shape[0]
        ends.append(total)
    return ends


def _row(checkpoint: Checkpoint, name: str, row: int) -> torch.Tensor:
    """One row, at most some thousand columns of it; a vector is one row."""
    info = checkpoint.tensors[name]
    width = info.numel // info.shape[0] if len(info.shape) > 1 else info.numel
    out = torch.empty(min(width, _SAMPLED_COLUMNS) if len(info.shape) > 1 else width, dtype=torch.float32)
    checkpoint.read(name, row * width, row * width + len(out), out.numpy())
    return out


def _column(checkpoint: Checkpoint, name: str, column: int) -> torch.Tensor:
    rows, width = checkpoint.tensors[name].shape
    out = torch.empty(min(rows, _SAMPLED_COLUMNS), dtype=torch.float32)
    for row in range(len(out)):
        checkpoint.read(name, row * width + column, row * width + column + 1, out[row : row + 1].numpy())
    return out


def _pearson(a: torch.Tensor, b: torch.Tensor) -> float | None:
    if a.numel() != b.numel():
        return -1.0
    means = a.double().mean(), b.double().mean()
    a, b = a.double() - means[0], b.double() - means[1]
    lengths = float(a.norm()), float(b.norm())
    if lengths[0] < 1e-9 and lengths[1] < 1e-9:
        return None if torch.equal(means[0], means[1]) else 0.0
    return float(a @ b) / max(lengths[0] * lengths[1], 1e-30)


def _rank(score: float | None) -> float:
    """Constant tensors fit anywhere: they are placed after those whose values speak."""
    return SOUND if score is None else score


def _alike(a: str, b: str) -> float:
    """How much two names have in common."""
    left, right = (re.sub(r"\{n[^}]*\}", "", name) for name in (a, b))
    return difflib.SequenceMatcher(None, left, right).ratio()


def _fused(base: Model, other: Model, base_groups: list[_Group], other_groups: list[_Group]) -> Iterator[Match]:
    """Tensors that one side keeps in parts and the other in one."""
    used: set[str] = set()
    for whole in other_groups:
        best: tuple[float, list[Match]] | None = None
        for parts in _parts_of(whole, [a for a in base_groups if a.template not in used]):
            for layouts in _layouts(base, whole, parts):
                scores = [
                    _correlation(base.checkpoint, other.checkpoint, part, [whole], {"take_rows": _rows_of(layout)})
                    for part, layout in zip(parts, layouts, strict=True)
                ]
                low = min(map(_rank, scores))
                if low >= SOUND and (best is None or low > best[0]):
                    matches = [
                        Match([p.template, whole.template, layout], s)
                        for p, layout, s in zip(parts, layouts, scores, strict=True)
                    ]
                    best = low, matches
        if best:
            used.update(match.rule[0] for match in best[1])
            yield from best[1]
    taken: set[str] = set()
    for whole in (a for a in base_groups if a.template not in used):
        best_match: tuple[float, Match] | None = None
        for parts in _parts_of(whole, [b for b in other_groups if b.template not in taken]):
            for ordered in permutations(parts):
                score = _correlation(base.checkpoint, other.checkpoint, whole, ordered, {})
                if _rank(score) >= SOUND and (best_match is None or _rank(score) > best_match[0]):
                    rule = [whole.template, [p.template for p in ordered], {"rows": [p.shape[0] for p in ordered]}]
                    best_match = _rank(score), Match(rule, score)
        if best_match:
            taken.update(best_match[1].rule[1])
            yield best_match[1]


def _parts_of(whole: _Group, groups: Iterable[_Group]) -> Iterator[tuple[_Group, ...]]:
    """Two or three tensors that have as many rows as `whole`."""
    fitting = [g for g in groups if g.shape and g.shape[1:] == whole.shape[1:] and len(g.names) == len(whole.names)]
    for count in (2, 3):
        for parts in combinations(fitting, count):
            if whole.shape and sum(part.shape[0] for part in parts) == whole.shape[0]:
                yield parts


def _layouts(base: Model, whole: _Group, parts: Sequence[_Group]) -> Iterator[list[dict[str, Any]]]:
    """Ways in which `parts` can lie in one tensor: one under the other in any order, or head by head."""
    rows = whole.shape[0]
    for order in permutations(range(len(parts))):
        begins: dict[int, int] = {}
        at = 0
        for index in order:
            begins[index] = at
            at += parts[index].shape[0]
        yield [{"view": [rows], "take": [[begins[i], begins[i] + part.shape[0]]]} for i, part in enumerate(parts)]
    try:
        sizes = dimensions(base.config)
    except CheckpointError:
        return
    counts = [part.shape[0] // sizes["head_dim"] for part in parts]
    for groups in {sizes["kv_heads"], sizes["heads"]}:
        if any(part.shape[0] % sizes["head_dim"] or count % groups for part, count in zip(parts, counts, strict=True)):
            continue
        each = [count // groups for count in counts]
        for order in permutations(range(len(parts))):
            at, head_ranges = 0, {}
            for index in order:
                head_ranges[index] = [at, at + each[index]]
                at += each[index]
            yield [{"view": [groups, at, sizes["head_dim"]], "take": [None, head_ranges[i]]} for i in range(len(parts))]


def _rows_of(layout: Mapping[str, Any]) -> torch.Tensor:
    view: list[int] = layout["view"]
    rows = torch.arange(int(torch.tensor(view).prod())).reshape(view)
    for axis, kept in enumerate(layout["take"]):
        if kept is not None:
            rows = rows.narrow(axis, kept[0], kept[1] - kept[0])
    return rows.reshape(-1)


def _describe_layout(layout: Mapping[str, Any]) -> str:
    if layout.get("transpose"):
        return "transposed"
    if "rows" in layout:
        return "one under the other"
    if len(layout["view"]) == 1:
        return f"rows {layout['take'][0][0]} to {layout['take'][0][1]}"
    return f"rows interleaved in {layout['view'][0]} groups"
