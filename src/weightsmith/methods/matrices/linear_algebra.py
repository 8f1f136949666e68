"""Singular vectors and polar factors without a full SVD: by the eigenvalues of the smaller Gram matrix.

benchmarks/matrix_methods.py measures error and time against `torch.linalg.svd`. Newton-Schulz steps from the matrix
itself took longer on two cores: task vectors have condition numbers of 1e5, which take dozens of steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_SMALLEST = 1e-6  # of the largest singular value: what is smaller is the rounding of float32


def gram_svd(matrix: torch.Tensor, count: int | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(u [rows, k], s [k], v [columns, k]): the `count` largest singular values and their vectors, float32, by the
    eigenvalues of the smaller Gram matrix in float64. Values below 1e-6 of the largest are zero, and so are their
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
    """The nearest matrix with orthonormal rows or columns: u v^T of its singular vectors, float32. Directions without a
    singular value stay without one, where an SVD would invent some.

    >>> polar_factor(torch.diag(torch.tensor([3.0, 2.0])))
    tensor([[1., 0.],
            [0., 1.]])
    """
    u, _, v = gram_svd(matrix)
    factor = u @ v.T
    wide = factor.shape[0] < factor.shape[1]
    gram = factor @ factor.T if wide else factor.T @ factor
    return 1.5 * factor - 0.5 * (gram @ factor if wide else factor @ gram)  # a Newton-Schulz step takes rounding away
