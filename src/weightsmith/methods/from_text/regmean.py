"""RegMean: the weights whose outputs are nearest to those of every model, on inputs that the model's own text gives.

For one linear layer the least squares problem sum_i |X_i W^T - X_i W_i^T|^2 has the solution
W^T = (sum_i G_i)^-1 sum_i G_i W_i^T with the Gram matrices G_i = X_i^T X_i.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weightsmith.errors import MergeError
from weightsmith.methods.from_text.text_parameters import text_parameters
from weightsmith.methods.matrices.matrix_method import MatrixMethod, matrix_parameters
from weightsmith.methods.method import Parameter

if TYPE_CHECKING:
    import torch

_SMALLEST = 1e-10  # of the largest eigenvalue: directions with less are in no text


def _parameters(reduction: float) -> tuple[Parameter, ...]:
    return matrix_parameters(
        *text_parameters(samples=32, context=512),
        Parameter(
            "reduction",
            float,
            "shared",
            "factor on the Gram matrices outside their diagonals: 1 trusts the text, 0 is a mean weighted by the size "
            "of the inputs",
            default=reduction,
            at_least=0.0,
            at_most=1.0,
        ),
        embeddings="base",
    )


class RegMean(MatrixMethod):
    """Regression mean: each linear layer of the result gives, in least squares, the outputs that each model's own gives
    on that model's `text`. Its Gram matrices are collected by reading the text once with each model, and kept beside
    the model.

    The paper's formula is followed, applied to task vectors: that is the same but for directions that are in no text,
    which get the mean of the task vectors, where the formula leaves them open. The defaults are MergeBench's for
    language models. Experts of a mixture get the mean: each of them sees a part of the tokens only."""

    name = "regmean"
    title = "RegMean"
    paper = "https://arxiv.org/abs/2212.09849"
    parameters = _parameters(reduction=0.5)
    reads_text = "gram"
    advice = (
        "When there is a text for each model, of the kind that it is asked in use: on five skills that interfere the "
        "best by far (docs/method-evidence.md). With fewer tokens than the widest layer has inputs, lower `reduction`."
    )
    cost = (
        "each model reads its text once, in float32 (all of it in memory); one matrix as wide as the inputs is kept on "
        "the disk for each linear layer and model; then one Cholesky factorization for each"
    )

    def merge_matrices(self, deltas, settings, streams, shape):
        import torch

        if settings.text is None:
            raise MergeError(f"{self.name} was given no statistics of a text")
        grams = [settings.text.gram(number) for number in settings.others]
        known = [gram for gram in grams if gram is not None]
        if len(known) < len(grams):
            return deltas.mean(0)
        reduction, width = settings.shared["reduction"], deltas.shape[2]
        if any(len(gram) != width for gram in known):
            raise MergeError(
                f"the statistics of a text are those of {len(known[0])} inputs, and the matrix has {width}"
            )
        system = torch.zeros((width, width), dtype=torch.float64, device=deltas.device)
        target = torch.zeros(deltas.shape[1:], dtype=torch.float64, device=deltas.device)
        for delta, gram in zip(deltas, known, strict=True):
            reduced = gram.to(deltas.device, torch.float64)
            diagonal = reduced.diagonal().clone()
            reduced = reduced * reduction
            reduced.diagonal().copy_(diagonal)
            system += reduced
            target += delta.double() @ reduced
        return _solution(system, target, deltas.mean(0).double()).float()


class RegMeanPlusPlus(RegMean):
    """RegMean on what the layers of the result will really get: a layer's Gram matrices are those of the inputs that
    the merged layers before it give, run through each model's own layer.

    Layers are merged one after the other while the text is read, so that statistics are those of this merge and are
    collected again when a parameter changes. MergeBench's code is followed; its default is `reduction` 0.1."""

    name = "regmean_plusplus"
    title = "RegMean++"
    paper = "https://arxiv.org/abs/2508.03121"
    parameters = _parameters(reduction=0.1)
    reads_text = "gram of merged inputs"


def _solution(system: torch.Tensor, target: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """x with x system = target; `mean` in directions that `system` does not have."""
    import torch

    scale = system.diagonal().clamp(min=0).sqrt()
    if not bool((scale > 0).any()):
        return mean
    scale = torch.where(scale > 0, scale, 1.0)
    system, target, mean = system / scale / scale[:, None], target / scale, mean * scale  # a unit diagonal
    factor, failed = torch.linalg.cholesky_ex(system)
    if not failed and float(factor.diagonal().min()) ** 2 > _SMALLEST * len(system):
        return torch.cholesky_solve(target.T, factor).T / scale
    values, vectors = torch.linalg.eigh(system)
    has = values > _SMALLEST * values[-1]
    solved = (target @ vectors) * torch.where(has, 1 / values.clamp(min=1e-300), 0.0)
    return (solved + (mean @ vectors) * ~has) @ vectors.T / scale
