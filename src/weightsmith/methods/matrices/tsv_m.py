"""TSV-M: the strongest directions of each task vector, made orthogonal to those of the others."""

from __future__ import annotations

from weightsmith.methods.matrices.linear_algebra import gram_svd, polar_factor
from weightsmith.methods.matrices.matrix_method import OF_ADAPTERS, MatrixMethod, matrix_parameters


class TsvM(MatrixMethod):
    """Task singular vectors: of each of N models the 1/N of singular directions with the largest values is kept; all
    that are kept are turned so that they interfere the least (the polar factor of the joined vectors), and keep their
    values.

    The authors' code is followed (`TSVM_utils.py`), with singular vectors and polar factors from Gram matrices.
    One model gives itself; orthogonal ones give their sum."""

    name = "tsv_m"
    title = "TSV-M"
    equivariant = True
    paper = "https://arxiv.org/abs/2412.00081"
    parameters = matrix_parameters()
    cost = (
        "one eigenvalue problem per model and matrix, and two more; each matrix is held whole, in float32, one of "
        "every model for each thread" + OF_ADAPTERS
    )
    advice = (
        "For distinct specialists of one base; on Llama-3.2-3B with five of them it gave 41.5 where task arithmetic "
        "gave 34.2 and TIES 39.2 (table 2 of arXiv 2602.05943, not measured here)."
    )

    def merge_matrices(self, deltas, settings, streams, shape):
        import torch

        count = len(deltas)
        if count == 1:
            return deltas[0]
        kept = max(1, min(shape) // count)
        us, values, vs = zip(*(gram_svd(delta, kept) for delta in deltas), strict=True)
        u, v = polar_factor(torch.cat(us, 1)), polar_factor(torch.cat(vs, 1))
        return (u * torch.cat(values)) @ v.T
