"""One vocabulary for all inputs: whose rows each token's embedding is taken from.

The rules are mergekit's (`mergekit/tokenizer`): a token that a model lacks gets the base model's embedding, or that of the one
model that has it, or the average of those that do, or zeros; `tokens` in a recipe overrides that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from weightsmith.architecture import Model
from weightsmith.architecture.tied import EMBEDDINGS, OUTPUTS
from weightsmith.checkpoint.tensor import Checkpoint, TensorInfo, convert
from weightsmith.errors import PlanError
from weightsmith.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch

Row = tuple[int, int]  # (which model, which of its rows)


@dataclass(frozen=True)
class Alignment:
    """`tokens`: the output's token -> row; `home`: the model whose tokenizer is extended by `added`; `rows`: with padding."""

    tokens: dict[str, int]
    home: Model
    added: tuple[dict[str, Any], ...]
    rows: int
    cut_to: int | None = None  # tokens of `home` from this row on have no embedding and are removed


def output_vocabulary(
    home: Model,
    known: Vocabulary,
    *,
    extend_by: Sequence[Vocabulary] = (),
    cut: bool = True,
    multiple: int | None = None,
) -> Alignment:
    """The vocabulary of the merged model: that of `home`, in its order, then the tokens that it lacks and `extend_by` have.
    `cut`: without the tokens that have no embedding. `multiple`: rows are padded to a multiple of it."""
    tokens = dict(known.used if cut else known.ids)
    plain: dict[str, None] = {}
    special: dict[str, dict[str, Any]] = {}
    for vocabulary in extend_by:
        for token in sorted(vocabulary.used, key=vocabulary.ids.__getitem__):
            if token in vocabulary.added:
                special.setdefault(token, vocabulary.added[token])
            else:
                plain[token] = None
    added: list[dict[str, Any]] = []
    free = max(tokens.values(), default=-1) + 1
    for token in [*(t for t in plain if t not in special), *special]:
        if token in tokens:
            continue
        entry = special.get(token) or {"content": token, "special": False, "normalized": True}
        added.append({**entry, "id": free})
        tokens[token] = free
        free += 1
    rows = free + (-free % multiple if multiple else 0)
    return Alignment(tokens, home, tuple(added), rows, known.rows if cut and len(known.used) < len(known.ids) else None)


@dataclass(frozen=True)
class TokenSource:
    """What a recipe says of one token: `rows` to take instead of the rule's; empty: zeros. `force`: for every model."""

    rows: tuple[Row, ...]
    force: bool = False


def aligned(
    models: Sequence[Model], vocabularies: Sequence[Vocabulary], base: int | None, out: Alignment,
    told: Mapping[str, TokenSource],
) -> list[Model]:  # fmt: skip
    """`models` with their embeddings and output matrices in the rows of `out`. `base`: which of them is the base model."""
    import torch

    own = [torch.full((out.rows,), -1, dtype=torch.int64) for _ in models]
    for mine, vocabulary in zip(own, vocabularies, strict=True):
        used = vocabulary.used
        for token, row in out.tokens.items():
            mine[row] = used.get(token, -1)
    fallback: dict[int, tuple[Row, ...]] = {}
    for token, row in out.tokens.items():
        has = [(number, int(mine[row])) for number, mine in enumerate(own) if mine[row] >= 0]
        if token in told:
            if told[token].force or len(has) < len(models):
                fallback[row] = told[token].rows
            if told[token].force:
                for mine in own:
                    mine[row] = -1
        elif len(has) < len(models):
            of_base = [entry for entry in has if entry[0] == base]
            fallback[row] = tuple(of_base if len(has) > 1 and of_base else has)
    sources = [model.checkpoint for model in models]
    padding = range(max(out.tokens.values(), default=-1) + 1, out.rows)
    return [
        replace(
            model,
            checkpoint=_AlignedCheckpoint(number, sources, mine, fallback, padding),
            config={**model.config, "vocab_size": out.rows},
        )
        for number, (model, mine) in enumerate(zip(models, own, strict=True))
    ]


@dataclass
class _AlignedCheckpoint:
    """One model's tensors, those over the vocabulary in another order of rows."""

    number: int
    sources: list[Checkpoint]
    own: torch.Tensor  # for each output row this model's row, or -1
    fallback: dict[int, tuple[Row, ...]]
    padding: range
    tensors: dict[str, TensorInfo] = field(init=False)

    def __post_init__(self) -> None:
        self.tensors = dict(self.sources[self.number].tensors)
        for name, info in self.tensors.items():
            if _over_vocabulary(name):
                self.tensors[name] = TensorInfo((len(self.own), *info.shape[1:]), info.dtype, computed=True)
        self._mean: dict[str, torch.Tensor] = {}

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        import torch

        source = self.sources[self.number]
        if not _over_vocabulary(name):
            return source.read(name, start, stop, out)
        if start == stop:
            return
        info = self.tensors[name]
        width = info.numel // info.shape[0]
        first, last = start // width, -(-stop // width)
        rows = torch.zeros(last - first, width, dtype=torch.float64 if info.dtype == "F64" else torch.float32)
        wanted = self.own[first:last].tolist()
        begin = 0
        while begin < len(wanted):  # runs of rows that follow each other are read at once
            end = begin + 1
            while end < len(wanted) and wanted[begin] >= 0 and wanted[end] == wanted[end - 1] + 1:
                end += 1
            if wanted[begin] >= 0:
                row = wanted[begin]
                source.read(name, row * width, (row + end - begin) * width, rows[begin:end].view(-1).numpy())
            else:
                rows[begin] = self._elsewhere(name, first + begin, width)
            begin = end
        convert(rows.view(-1)[start - first * width : stop - first * width].numpy(), out)

    def _elsewhere(self, name: str, row: int, width: int) -> torch.Tensor:
        """The embedding of a token that this model does not have: a mean of rows of models that do."""
        import torch

        if row in self.padding:
            if name not in self._mean:
                self._mean[name] = self._mean_row(name, width)
            return self._mean[name]
        total = torch.zeros(width)
        given = self.fallback.get(row, ())
        for number, other in given:
            block = torch.empty(width)
            self.sources[number].read(self._name_in(number, name), other * width, (other + 1) * width, block.numpy())
            total += block
        return total / len(given) if given else total

    def _mean_row(self, name: str, width: int) -> torch.Tensor:
        """Of all tokens, which is what padding rows get (https://nlp.stanford.edu/~johnhew/vocab-expansion.html)."""
        import torch

        total = torch.zeros(width, dtype=torch.float64)
        step = max(1, (1 << 20) // width)
        for first in range(0, self.padding.start, step):
            last = min(first + step, self.padding.start)
            block = torch.empty((last - first) * width)
            self.read(name, first * width, last * width, block.numpy())
            total += block.view(-1, width).sum(0, dtype=torch.float64)
        return (total / max(1, self.padding.start)).float()

    def _name_in(self, number: int, name: str) -> str:
        tensors = self.sources[number].tensors
        if name in tensors:
            return name
        for twin in tensors:  # an output matrix that is tied to the embedding there
            if twin.endswith(EMBEDDINGS):
                return twin
        raise PlanError(f"tensor {name!r} is needed for tokens that other models lack, and one model has none")


def _over_vocabulary(name: str) -> bool:
    """Whether a tensor has a row for each token; an output matrix may have a bias."""
    return name.endswith((*EMBEDDINGS, *OUTPUTS)) or name in ("lm_head.bias", "embed_out.bias")
