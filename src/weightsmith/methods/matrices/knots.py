"""KnOTS: task vectors brought to common directions before they are merged element by element."""

from __future__ import annotations

from weightsmith.methods.matrices.linear_algebra import gram_svd
from weightsmith.methods.matrices.matrix_method import MatrixMethod, matrix_parameters
from weightsmith.methods.method import Parameter

_LEAST = 1e-5  # a smaller singular value is none, as in the authors' code


class Knots(MatrixMethod):
    """The task vectors side by side, [tau_1 | ... | tau_N] = U S [V_1 | ... | V_N]^T, have directions U in common: TIES
    merges their coordinates S V_i^T, and U brings the result back. Made for LoRA adapters, whose task vectors have few
    directions each."""

    name = "knots"
    title = "KnOTS with TIES"
    paper = "https://arxiv.org/abs/2410.19735"
    parameters = matrix_parameters(
        Parameter(
            "density", float, "shared", "share of the coordinates that is kept", default=1.0, above=0.0, at_most=1.0
        ),
        Parameter("normalize", bool, "shared", "divide by the number of models that took part", default=True),
    )
    cost = (
        "one eigenvalue problem as tall as the matrix and N + 1 matrix products; each matrix is held whole, in "
        "float32, one of every model for each thread"
    )

    def merge_matrices(self, deltas, settings):
        import torch

        u, s, _ = gram_svd(torch.cat(list(deltas), 1))
        u = u[:, s > _LEAST]
        coordinates = torch.stack([u.T @ delta for delta in deltas])
        kept = int(settings.shared["density"] * coordinates[0].numel())
        if kept < coordinates[0].numel():
            sizes = coordinates.abs().flatten(1)
            bounds = sizes.kthvalue(sizes.shape[1] - max(1, kept) + 1, 1).values
            coordinates = coordinates * (coordinates.abs() >= bounds.view(-1, 1, 1))
        agree = coordinates.sign() == torch.where(coordinates.sum(0) >= 0, 1.0, -1.0)
        merged = (coordinates * agree).sum(0)
        if settings.shared["normalize"]:
            merged = merged / agree.sum(0).clamp(min=1)
        return u @ merged
