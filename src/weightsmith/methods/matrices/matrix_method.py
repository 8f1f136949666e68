"""What methods of matrices share: which tensors are matrices, what the others get, and fused weights taken apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from weightsmith.blocks.block import Block, Scan
from weightsmith.methods.depth_scaling import DEPTH_SCALING
from weightsmith.methods.matrices.adapter_space import adapter_space
from weightsmith.methods.method import Method, Parameter, Statistics
from weightsmith.methods.tensor_settings import Settings

if TYPE_CHECKING:
    import torch

    from weightsmith.methods.matrices.adapter_space import Factors

OF_ADAPTERS = "; for adapters on the base their own matrices are enough, which take a small part of that"
_RULES = ("mean", "sum", "base")


def matrix_parameters(*more: Parameter, embeddings: str = "mean") -> tuple[Parameter, ...]:
    """Those that all methods of matrices have, and `more`."""
    return (
        Parameter("weight", float, "non_base", "factor on this model's task vector, before anything else", default=1.0),
        Parameter("lambda", float, "shared", "factor on the merged task vector", default=1.0),
        *more,
        Parameter(
            "embeddings",
            str,
            "shared",
            "what embeddings and heads get: the mean or the sum of the task vectors, nothing (base), or the method "
            "itself (matrix)",
            default=embeddings,
            choices=(*_RULES, "matrix"),
        ),
        Parameter(
            "vectors",
            str,
            "shared",
            "what norms, biases and convolutions get: the mean or the sum of the task vectors, or nothing (base)",
            default="mean",
            choices=_RULES,
        ),
        *DEPTH_SCALING,
    )


class MatrixMethod(Method):
    """out = base + lambda * merged, where `merge_matrices` makes `merged` of the task vectors of one weight matrix.

    Each expert of a mixture is a matrix of its own, and so is each part of a fused one: gate and up, query, key and
    value."""

    needs_base = True
    row_wise = True
    of_matrices = True
    cost = "each matrix is held whole, in float32, one of every model for each thread"

    weighted: ClassVar[bool] = True  # task vectors are multiplied by their weight before they are merged
    equivariant: ClassVar[bool] = False  # turned task vectors give the turned result, with no direction that none has

    def merge_matrices(
        self, deltas: torch.Tensor, settings: Settings, streams: tuple[int, ...], shape: tuple[int, int]
    ) -> torch.Tensor:
        """The merged task vector [outputs, inputs] of what `gathered` gives, float32 [models, outputs, inputs].
        `streams`: for each input the key of its random numbers; `shape`: of the weight, larger than that of task
        vectors of adapters, which an `equivariant` method gets in the space that they span."""
        raise NotImplementedError

    def takes_factors(self, settings: Settings) -> bool:
        """Whether adapters on the base are merged from their matrices, by `merge_factors`."""
        return self.equivariant

    def merge_factors(self, factors: Factors, settings: Settings, streams: tuple[int, ...]) -> torch.Tensor:
        """As `merge_matrices` of the task vectors b_i a_i, whose ranks are not all 0."""
        space = adapter_space(factors)
        return space.expanded(self.merge_matrices(space.cores, settings, streams, space.shape))

    def gathered(self, scan: Scan, settings: Settings) -> torch.Tensor:
        """The task vectors of a whole tensor, float32 [models, elements]."""
        import torch

        others, blocks = settings.others, []
        weights = [settings.per_input[i]["weight"] if self.weighted else 1.0 for i in others]
        for block in scan.blocks():
            inputs = block.inputs
            factors = torch.tensor(weights, device=inputs.device).unsqueeze(1)
            blocks.append((inputs[others] - inputs[settings.base_index]) * factors)
        return torch.cat(blocks, 1)

    def statistics(self, scan: Scan, settings: Settings) -> Statistics:
        import torch

        shared = settings.shared
        if settings.role != "matrix" or not scan.numel:
            return Statistics({"rule": shared["embeddings" if settings.role == "embedding" else "vectors"]})
        if (merged := self._merge_adapters(scan, settings)) is not None:
            return Statistics({"merged": merged.reshape(-1), "from": scan.begin})
        gathered = self.gathered(scan, settings)
        deltas = gathered.view(len(gathered), -1, scan.width)
        spoiled = ~deltas.isfinite().all(0)  # no eigenvalue problem has a solution with these
        deltas[:, spoiled] = 0.0
        merged = self._merge_parts(deltas, settings, scan.streams)
        merged[spoiled] = torch.nan
        return Statistics({"merged": merged.reshape(-1), "from": scan.begin})

    def _merge_parts(self, deltas: torch.Tensor, settings: Settings, streams: tuple[int, ...]) -> torch.Tensor:
        layout = settings.matrix
        if layout is None:
            return self._merge_whole(deltas, settings, streams)
        if layout.transposed:
            deltas = deltas.transpose(1, 2)
        merged = deltas.new_zeros(deltas.shape[1:])
        for rows in layout.rows_of_parts():
            index = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
            merged[index] = self._merge_whole(deltas[:, index].contiguous(), settings, streams)
        return merged.T.contiguous() if layout.transposed else merged

    def _merge_whole(self, deltas: torch.Tensor, settings: Settings, streams: tuple[int, ...]) -> torch.Tensor:
        _, rows, columns = deltas.shape
        return self.merge_matrices(deltas, settings, streams, (rows, columns))

    def factors(self, scan: Scan, settings: Settings) -> Factors | None:
        """The matrices that a whole weight is merged from, where all inputs are adapters on the base."""
        if not self.takes_factors(settings):
            return None
        factors: Factors = []
        for i in settings.others:
            if (pair := scan.low_rank(i)) is None:
                return None
            b, a = pair
            factors.append((b * settings.per_input[i]["weight"] if self.weighted else b, a))
        return factors

    def _merge_adapters(self, scan: Scan, settings: Settings) -> torch.Tensor | None:
        """As `_merge_parts` of `factors`, where there are such: without the rounding of base + adapter."""
        import torch

        if (factors := self.factors(scan, settings)) is None:
            return None
        rows, layout = scan.numel // scan.width, settings.matrix
        if not all(b.isfinite().all() and a.isfinite().all() for b, a in factors):
            return torch.full((rows, scan.width), torch.nan)  # the engine says which input has them
        if not any(len(a) for _, a in factors):
            return torch.zeros((rows, scan.width))
        if layout is None:
            return self.merge_factors(factors, settings, scan.streams)
        if layout.transposed:
            factors = [(a.T, b.T) for b, a in factors]
        merged = torch.zeros((len(factors[0][0]), factors[0][1].shape[1]))
        for part in layout.rows_of_parts():
            index = list(part)
            merged[index] = self.merge_factors([(b[index], a) for b, a in factors], settings, scan.streams)
        return merged.T if layout.transposed else merged

    def combine(self, block: Block, settings: Settings, statistics: Statistics) -> torch.Tensor:
        values = statistics.values
        inputs = block.inputs
        base = inputs[settings.base_index]
        if "merged" in values:
            start = block.start - values["from"]
            merged = values["merged"][start : start + len(base)].to(base.device)
            return base + merged * (settings.shared["lambda"] * settings.scale)
        others, rule = settings.others, values.get("rule", "base")
        if rule == "base":
            return base
        total = sum((inputs[i] - base) * settings.per_input[i]["weight"] for i in others)
        factor = settings.shared["lambda"] * settings.scale
        return base + total * (factor / (len(others) if rule == "mean" else 1))
