"""Singular vectors and polar factors without a full SVD, which LAPACK takes minutes for.

Measured against `torch.linalg.svd` in benchmarks/matrix_methods.py, which prints errors and times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_SMALLEST = 1e-7  # of the largest singular value: what is smaller is rounding of the Gram matrix
_MOST_STEPS = 60
_CONVERGED = 1e-6


def gram_svd(matrix: torch.Tensor, count: int | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(u [rows, k], s [k], v [columns, k]): the `count` largest singular values and their vectors, float32, by the
    eigenvalues of the smaller Gram matrix in float64. Values below 1e-7 of the largest are zero, and so are their
    vectors, where an SVD would invent some.

    >>> u, s, v = gram_svd(torch.diag(torch.tensor([3.0, 2.0])))
    >>> s
    tensor([3., 2.])
    """
    import torch

    rows, columns = matrix.shape
    double = matrix.double()
    tall = rows >= columns
    squares, vectors = torch.linalg.eigh(double.T @ double if tall else double @ double.T)
    count = min(count or len(squares), len(squares))
    values = squares.flip(0)[:count].clamp(min=0).sqrt()
    kept = values > _SMALLEST * values[:1]
    values = torch.where(kept, values, 0.0)
    vectors = vectors.flip(1)[:, :count] * kept
    others = (double @ vectors if tall else double.T @ vectors) / torch.where(kept, values, 1.0)
    u, v = (others, vectors) if tall else (vectors, others)
    return u.float(), values.float(), v.float()


def polar_factor(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with orthonormal rows or columns: u v^T of its singular vectors, float32.

    By Newton-Schulz steps X <- 1.5 X - 0.5 X X^T X, matrix products alone, from the matrix divided by its largest
    singular value. Directions without a singular value stay without one, where an SVD would invent them.

    >>> polar_factor(torch.diag(torch.tensor([3.0, 2.0])))
    tensor([[1., 0.],
            [0., 1.]])
    """
    x = matrix.float()
    wide = x.shape[0] < x.shape[1]
    x = x.T if wide else x
    largest = _largest_singular_value(x)
    if not largest:
        return matrix * 0
    x = x / (largest * 1.01)
    for _ in range(_MOST_STEPS):
        step = 0.5 * (x - x @ (x.T @ x))
        x = x + step
        if float(step.square().mean().sqrt()) <= _CONVERGED * float(x.square().mean().sqrt()):
            break
    return x.T if wide else x


def _largest_singular_value(x: torch.Tensor) -> float:
    """Within a percent, never far below: by power iteration, from the column sums."""
    import torch

    vector = torch.ones(x.shape[1], device=x.device) + torch.arange(x.shape[1], device=x.device) / x.shape[1]
    norm = 0.0
    for _ in range(30):
        image = x.T @ (x @ vector)
        size = float(image.norm())
        if not size:
            break
        norm, vector = size / float(vector.norm()), image / size
    bound = float(x.square().sum().sqrt())
    return min(bound, norm**0.5 * 1.05) if norm else bound
