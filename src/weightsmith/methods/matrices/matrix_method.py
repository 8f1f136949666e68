"""What methods of matrices share: which tensors are matrices, what the others get, and fused weights taken apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from weightsmith.blocks.block import Block, Scan
from weightsmith.methods.depth_scaling import DEPTH_SCALING
from weightsmith.methods.method import Method, Parameter, Statistics
from weightsmith.methods.tensor_settings import Settings

if TYPE_CHECKING:
    import torch

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

    def merge_matrices(self, deltas: torch.Tensor, settings: Settings, streams: tuple[int, ...]) -> torch.Tensor:
        """The merged task vector [outputs, inputs] of what `gathered` gives, float32 [models, outputs, inputs].
        `streams`: for each input the key of its random numbers."""
        raise NotImplementedError

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
            return self.merge_matrices(deltas, settings, streams)
        if layout.transposed:
            deltas = deltas.transpose(1, 2)
        merged = deltas.new_zeros(deltas.shape[1:])
        for rows in layout.rows_of_parts():
            index = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
            merged[index] = self.merge_matrices(deltas[:, index].contiguous(), settings, streams)
        return merged.T.contiguous() if layout.transposed else merged

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
