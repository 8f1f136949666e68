"""SVC: directions that several models share are scaled back to what each of them had."""

from __future__ import annotations

from weightsmith.methods.matrices.linear_algebra import gram_svd
from weightsmith.methods.matrices.matrix_method import MatrixMethod, matrix_parameters
from weightsmith.methods.method import Parameter

_LEAST = 1e-12


class Svc(MatrixMethod):
    """Singular value calibration of the sum (or mean) of the task vectors: along each of its directions u the sum is
    compared with each model, s_i = <u^T sum, u^T tau_i> / |u^T tau_i|^2, and scaled by N / sum_i max(s_i, `alpha`).
    What all N models have comes out once, not N times. The authors' code is followed."""

    name = "svc"
    title = "Singular value calibration"
    paper = "https://arxiv.org/abs/2602.05536"
    parameters = matrix_parameters(
        Parameter(
            "alpha", float, "shared", "the least that a model's share counts", default=0.1, above=0.0, at_most=100.0
        ),
        Parameter("of", str, "shared", "what is calibrated", default="sum", choices=("sum", "mean")),
    )
    cost = (
        "one eigenvalue problem and N + 2 matrix products per matrix, which is held whole, in float32, one of every "
        "model for each thread"
    )

    def merge_matrices(self, deltas, settings):
        merged = deltas.sum(0) if settings.shared["of"] == "sum" else deltas.mean(0)
        u, _, _ = gram_svd(merged)
        along = u.T @ merged
        shares = along.new_zeros(len(along))
        for delta in deltas:
            own = u.T @ delta
            share = (along * own).sum(1) / own.square().sum(1).clamp(min=_LEAST)
            shares += share.clamp(min=settings.shared["alpha"])
        return u @ (along * (len(deltas) / shares).unsqueeze(1))
