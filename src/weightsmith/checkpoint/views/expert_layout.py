"""How the matrices of all experts lie in one tensor, and views that take them apart and put them together.

Straight, they lie one under the other: of each expert the gate's rows, then the up projection's, a row for each output.
In files they may be transposed (Llama 4), with gate and up in turns (gpt-oss).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from weightsmith.checkpoint.checkpoint import Checkpoint, TensorInfo, by_matrix
from weightsmith.checkpoint.dtypes import convert
from weightsmith.checkpoint.views.transposed_panels import LastPanel, TransposedPanels, transpose

_PANEL_BYTES = 16 << 20


@dataclass(frozen=True)
class ExpertLayout:
    """Each of `experts` has `parts` matrices (gate and up, or one) of `rows` outputs and `columns` inputs.
    `transposed`: a stored row has an element of every output; `interleaved`: outputs of the parts take turns.
    `by_inputs`, of transposed ones: the matrices are taken apart and not transposed, a row for each input; that is
    cheaper, for methods that do not look at rows.

    >>> ExpertLayout(experts=8, parts=2, rows=64, columns=32, transposed=True).stored_shape
    (8, 32, 128)
    """

    experts: int
    parts: int
    rows: int
    columns: int
    transposed: bool = False
    interleaved: bool = False
    by_inputs: bool = False

    @property
    def is_straight(self) -> bool:
        apart = self.parts == 1 or not (self.interleaved or self.by_inputs)
        return apart and (self.by_inputs or not self.transposed)

    @property
    def outputs(self) -> int:
        return self.parts * self.rows

    @property
    def matrix_ends(self) -> tuple[int, ...]:
        """Where each matrix ends, straight, in elements."""
        size = self.rows * self.columns
        return tuple(size * (number + 1) for number in range(self.experts * self.parts))

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        return (self.experts, *((self.columns, self.outputs) if self.transposed else (self.outputs, self.columns)))

    @property
    def straight_shape(self) -> tuple[int, int, int]:
        if self.by_inputs:
            return self.experts, self.parts * self.columns, self.rows
        return self.experts, self.outputs, self.columns

    def arranged(self, expert: np.ndarray) -> np.ndarray:
        """An expert, straight (2-d) -> the same as it is stored (2-d)."""
        if self.by_inputs:
            parts = expert.reshape(self.parts, self.columns, self.rows)
            order = (1, 2, 0) if self.interleaved else (1, 0, 2)
            return parts.transpose(order).reshape(self.columns, self.outputs)
        if self.interleaved:
            expert = expert.reshape(self.parts, self.rows, self.columns).transpose(1, 0, 2).reshape(expert.shape)
        if not self.transposed:
            return expert
        stored = np.empty(self.stored_shape[1:], expert.dtype)
        transpose(expert, stored)
        return stored


def straight(source: Checkpoint, layouts: Mapping[str, ExpertLayout], last: LastPanel | None = None) -> Checkpoint:
    """`source` with the tensors of `layouts` straight. `last`: memory that views of one checkpoint share."""
    layouts = {name: layout for name, layout in layouts.items() if not layout.is_straight}
    if not layouts:
        return source
    if isinstance(source, ArrangedExperts) and layouts.items() <= source.layouts.items():
        return source.source
    return StraightExperts(source, layouts, last or LastPanel())


def arranged(source: Checkpoint, layouts: Mapping[str, ExpertLayout]) -> Checkpoint:
    """`source`, whose tensors of `layouts` are straight, with them as they are stored."""
    layouts = {name: layout for name, layout in layouts.items() if not layout.is_straight}
    return ArrangedExperts(source, layouts) if layouts else source


class _Rearranged:
    """Tensors of experts in another order of their elements, read in whole rows."""

    def __init__(self, source: Checkpoint, layouts: Mapping[str, ExpertLayout], last: LastPanel) -> None:
        self.source, self.layouts, self._last = source, dict(layouts), last
        changed = {name: replace(source.tensors[name], shape=self._shape(name)) for name in layouts}
        self.tensors: Mapping[str, TensorInfo] = {**source.tensors, **changed}

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        if name not in self.layouts:
            return self.source.read(name, start, stop, out)
        rows, width = self._shape(name)[-2:]
        while start < stop:
            expert, first = divmod(start // width, rows)
            skipped = start % width
            last = min(rows, first - (-(skipped + stop - start) // width))
            items = self._read_rows(name, expert, first, last).reshape(-1)[skipped : skipped + stop - start]
            convert(items, out[: len(items)])
            out, start = out[len(items) :], start + len(items)

    def _shape(self, name: str) -> tuple[int, ...]:
        raise NotImplementedError

    def _read_rows(self, name: str, expert: int, first: int, last: int) -> np.ndarray:
        raise NotImplementedError

    def _stored_rows(self, name: str, expert: int, first: int, last: int) -> np.ndarray:
        """Rows of an expert in `source`."""
        height, width = self.layouts[name].stored_shape[1:]
        rows = np.empty((last - first, width), self.source.tensors[name].read_dtype)
        start, stop = ((expert * height + row) * width for row in (first, last))
        self.source.read(name, start, stop, rows.reshape(-1))
        return rows

    def _panels(self, name: str, rows: int, columns: int) -> TransposedPanels:
        direct = not self.source.tensors[name].decoded
        return TransposedPanels(self.source, name, rows, columns, self._last, _PANEL_BYTES, direct)


class StraightExperts(_Rearranged):
    """A checkpoint with its experts straight, one expert after the other."""

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.layouts[name].straight_shape

    def _read_rows(self, name: str, expert: int, first: int, last: int) -> np.ndarray:
        layout = self.layouts[name]
        if layout.by_inputs:
            return self._read_inputs(name, expert, first, last)
        if layout.transposed:
            panels = self._panels(name, layout.columns, layout.outputs)
            return _outputs(layout, first, last, lambda begin, end: panels.read(expert, begin, end))

        return _outputs(layout, first, last, lambda begin, end: self._stored_rows(name, expert, begin, end))

    def _read_inputs(self, name: str, expert: int, first: int, last: int) -> np.ndarray:
        layout, found = self.layouts[name], []
        for part, begin, end, _ in by_matrix(first, last, layout.columns):
            rows = self._stored_rows(name, expert, begin, end)
            own = slice(part, None, layout.parts) if layout.interleaved else slice(part * layout.rows, None)
            found.append(rows[:, own][:, : layout.rows])
        return np.concatenate(found)


class ArrangedExperts(_Rearranged):
    """A checkpoint whose experts are straight, with them as they are stored."""

    def __init__(self, source: Checkpoint, layouts: Mapping[str, ExpertLayout]) -> None:
        super().__init__(source, layouts, LastPanel())

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.layouts[name].stored_shape

    def _read_rows(self, name: str, expert: int, first: int, last: int) -> np.ndarray:
        layout = self.layouts[name]
        if layout.transposed:
            inputs = self._panels(name, layout.outputs, layout.columns).read(expert, first, last)
            if not layout.interleaved:
                return inputs
            return inputs.reshape(-1, layout.parts, layout.rows).transpose(0, 2, 1).reshape(inputs.shape)
        rows = np.empty((last - first, layout.columns), self.source.tensors[name].read_dtype)
        for number, row in enumerate(range(first, last)):
            place, part = divmod(row, layout.parts)
            start = (expert * layout.outputs + part * layout.rows + place) * layout.columns
            self.source.read(name, start, start + layout.columns, rows[number])
        return rows


def _outputs(layout: ExpertLayout, first: int, last: int, read: Callable[[int, int], np.ndarray]) -> np.ndarray:
    """Outputs `first` to `last`, straight, where `read` gives a range of them as they are stored."""
    if not layout.interleaved:
        return read(first, last)
    found = [
        read(begin * layout.parts, end * layout.parts)[part :: layout.parts]
        for part, begin, end, _ in by_matrix(first, last, layout.rows)
    ]
    return np.concatenate(found)
