"""Iso-C and Iso-CTS: a merged task vector whose singular values are all the same."""

from __future__ import annotations

from weightsmith.methods.matrices.linear_algebra import gram_svd, polar_factor
from weightsmith.methods.matrices.matrix_method import OF_ADAPTERS, MatrixMethod, matrix_parameters
from weightsmith.methods.method import Parameter

_ROUNDING = 1e-5  # of a task vector's length: a smaller direction is what subtraction left


class IsoC(MatrixMethod):
    """The sum of the task vectors with every singular value set to their mean: directions that few models share count
    as much as those that all do. Directions that the sum does not have stay at zero, where the authors' SVD invents
    some. One model does not give itself: its spectrum becomes flat."""

    name = "iso_c"
    flattens = True
    equivariant = True
    title = "Iso-C"
    paper = "https://arxiv.org/abs/2502.04959"
    parameters = matrix_parameters()
    cost = (
        "one eigenvalue problem per matrix, which is held whole, in float32, one of every model for each thread"
        + OF_ADAPTERS
    )
    advice = (
        "For full fine-tunes: of five skills in LoRA adapters nothing was left, with `lambda` up to 2 "
        "(docs/method-evidence.md). Published values, 1 to 1.5, are for image classifiers."
    )

    def merge_matrices(self, deltas, settings, streams, shape):
        total = deltas.sum(0)
        direction = polar_factor(total)
        return direction * ((direction * total).sum() / min(shape))


class IsoCts(MatrixMethod):
    """Iso-C with directions of single models: the share `common_space_fraction` of directions is the sum's, the rest
    are, from each model in equal numbers, the strongest ones that the common ones do not hold. All are made orthogonal
    and get the mean singular value. The authors' code is followed."""

    name = "iso_cts"
    flattens = True
    equivariant = True
    title = "Iso-CTS"
    paper = "https://arxiv.org/abs/2502.04959"
    parameters = matrix_parameters(
        Parameter(
            "common_space_fraction",
            float,
            "shared",
            "share of the directions that are the sum's",
            default=0.8,
            at_least=0,
            at_most=1,
        ),
    )
    cost = (
        "one eigenvalue problem per model and matrix, and three more; each matrix is held whole, in float32, one of "
        "every model for each thread" + OF_ADAPTERS
    )
    advice = IsoC.advice

    def merge_matrices(self, deltas, settings, streams, shape):
        import torch

        count, total = len(deltas), deltas.sum(0)
        rank = min(shape)
        wanted = int(rank * settings.shared["common_space_fraction"])
        own = round((rank - wanted) / count)  # directions of each model
        common = rank - own * count
        u, s, v = gram_svd(total, max(1, common))
        u, s, v = u[:, :common], s[:common], v[:, :common]
        us, values, vs = [], [], []
        for delta in deltas if own else ():
            own_u, own_s, own_v = gram_svd(delta - u @ (u.T @ delta), own)
            kept = own_s > _ROUNDING * delta.norm()
            us.append(own_u * kept)
            values.append(own_s * kept)
            vs.append(own_v * kept)
        u, v = (polar_factor(torch.cat(vectors, 1)) for vectors in ([*us, u], [*vs, v]))
        return (u @ v.T) * (torch.cat([*values, s]).sum() / (common + own * count))
