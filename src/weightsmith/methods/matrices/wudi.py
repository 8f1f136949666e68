"""WUDI in closed form: the task vector that disturbs each model least on inputs like those it was trained with.

A model's task vector of a linear layer lies in the space of its inputs, so tau_i^T tau_i stands for their covariance,
and no data is needed. WUDI minimizes sum_i |(theta - tau_i) tau_i^T|^2 / |tau_i|^2, which is a linear system in theta.
"""

from __future__ import annotations

import math

from weightsmith.methods.matrices.matrix_method import OF_ADAPTERS, MatrixMethod, matrix_parameters
from weightsmith.methods.method import Parameter

_LEAST = 1e-8  # the authors' bound for eigenvalues
_NOTHING = 1e-12  # task vectors whose squared norms are smaller are averaged

_START = Parameter(
    "start",
    str,
    "shared",
    "what directions without weight get: the mean, the sum or nothing of the task vectors",
    default="mean",
    choices=("mean", "sum", "zero"),
)


class _ClosedForm(MatrixMethod):
    equivariant = True
    normalized = True  # each model's part divided by its squared norm
    cost = (
        "one eigenvalue problem as wide as the matrix and 2 N + 3 matrix products; each matrix is held whole, one of "
        "every model for each thread, and its Gram matrix in float64" + OF_ADAPTERS
    )

    def merge_matrices(self, deltas, settings, streams, shape):
        import torch

        squares = deltas.double().square().sum((1, 2))
        mean = deltas.mean(0)
        if float(squares.max()) < _NOTHING:
            return mean
        scales = 1 / squares.clamp(min=_NOTHING) if self.normalized else torch.ones_like(squares)
        width = deltas.shape[2]
        system = torch.zeros((width, width), dtype=torch.float64, device=deltas.device)
        target = torch.zeros(deltas.shape[1:], dtype=torch.float64, device=deltas.device)
        for delta, scale in zip(deltas, scales, strict=True):
            double = delta.double()
            gram = double.T @ double * scale
            system += gram
            target += double @ gram
        eigenvalues, vectors = torch.linalg.eigh(system)
        least = _LEAST if self.normalized else 0.0
        eigenvalues = eigenvalues.clamp(min=least)
        beyond = shape[1] - width  # directions of the weight that no task vector has
        filters = self._filters(torch.cat([eigenvalues.new_full((beyond,), least), eigenvalues]), shape, settings)[
            beyond:
        ]
        start = {"mean": mean, "sum": deltas.sum(0), "zero": mean * 0}[settings.shared.get("start", "zero")].double()
        inverse = torch.where(filters > 0, filters / eigenvalues.clamp(min=1e-300), 0.0)
        merged = start + (-(start @ vectors) * filters + (target @ vectors) * inverse) @ vectors.T
        return merged.float()

    def _filters(self, eigenvalues, shape, settings):
        """How far each direction goes from the start (0) to the solution (1); eigenvalues ascend."""
        raise NotImplementedError


class Swudi(_ClosedForm):
    """WUDI by a spectral filter: each direction goes 1 - exp(-eigenvalue `t`) of the way to the solution, those beyond
    the share `rank_ratio` of strongest ones not at all. The authors' code is followed, but for `start`: theirs begins
    at the sum, whose scale grows with the number of models, and scales it down by hand for language models."""

    name = "swudi"
    title = "SWUDI"
    paper = "https://arxiv.org/abs/2606.07289"
    parameters = matrix_parameters(
        Parameter("t", float, "shared", "how long the flow to the solution lasts", default=300.0, at_least=0.0),
        Parameter("rank_ratio", float, "shared", "share of directions that move", default=0.85, above=0.0, at_most=1.0),
        _START,
        embeddings="base",
    )
    advice = "The paper's setting for full fine-tunes of language models is the default, t 300 and rank_ratio 0.85."

    def _filters(self, eigenvalues, shape, settings):
        kept = math.ceil(len(eigenvalues) * settings.shared["rank_ratio"])
        filters = 1 - (-eigenvalues * settings.shared["t"]).exp()
        filters[: len(eigenvalues) - kept] = 0
        return filters


class Aswudi(_ClosedForm):
    """WUDI on as many directions as the spectrum calls for: those above the noise (`gavish_donoho`, for full
    fine-tunes), or as many as take part in it (`participation`, for LoRA adapters)."""

    name = "aswudi"
    title = "ASWUDI"
    paper = "https://arxiv.org/abs/2606.07289"
    advice = "As swudi: in our measurements no difference was seen, in scores or in time (docs/method-evidence.md)."
    parameters = matrix_parameters(
        Parameter(
            "rank",
            str,
            "shared",
            "how the number of directions is found",
            default="gavish_donoho",
            choices=("gavish_donoho", "participation"),
        ),
        _START,
        embeddings="base",
    )

    def _filters(self, eigenvalues, shape, settings):
        import torch

        sizes = eigenvalues.sqrt()
        if settings.shared["rank"] == "participation":
            kept = math.ceil(float(sizes.sum() ** 2 / eigenvalues.sum()))
        else:
            kept = int((sizes > _gavish_donoho(min(shape) / max(shape)) * sizes.median()).sum())
        filters = torch.zeros_like(eigenvalues)
        filters[len(eigenvalues) - min(max(1, kept), len(eigenvalues)) :] = 1
        return filters


class ActMat(_ClosedForm):
    """Data-free covariance estimation: sum_i tau_i (tau_i^T tau_i) times the pseudo-inverse of sum_i tau_i^T tau_i, so
    that models with larger task vectors count more. One model gives itself; equal ones give that one."""

    name = "actmat"
    title = "ActMat"
    paper = "https://arxiv.org/abs/2604.01329"
    advice = (
        "A special case of aswudi, with nothing to set but `lambda`; as good in our measurements "
        "(docs/method-evidence.md)."
    )
    parameters = matrix_parameters(embeddings="base")
    normalized = False

    def _filters(self, eigenvalues, shape, settings):
        import torch

        noise = eigenvalues.max() * len(eigenvalues) * torch.finfo(torch.float32).eps
        return (eigenvalues > noise).double()


def _gavish_donoho(ratio: float) -> float:
    """Times the median singular value: what is larger is no noise (arXiv 1305.5870), as in the authors' code."""
    omega = math.sqrt(2 * (ratio + 1) + 8 * ratio / ((ratio + 1) + math.sqrt(ratio**2 + 14 * ratio + 1)))
    median = math.sqrt(max((1 - ratio) ** 2 + ratio, 1e-3)) if ratio < 0.9999 else math.sqrt(2 + math.sqrt(3))
    return omega / median
