"""Singular vectors and polar factors without a full SVD: by the eigenvalues of the smaller Gram matrix.

benchmarks/matrix_methods.py measures error and time against `torch.linalg.svd`. Newton-Schulz steps from the matrix
itself took longer on two cores: task vectors have condition numbers of 1e5, which take dozens of steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

_OVERSAMPLED, _POWERS, _SMALL = 10, 4, 256

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


def top_svd(matrix: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `gram_svd` of the `count` largest singular values, for few of them: of a large matrix by a randomized range of
    a few more directions and power iterations (Halko et al. 2011, algorithm 4.4), the same ones every time. Exact where
    the matrix has no more directions; else the part that is lost is larger than it has to be by a few per cent."""
    import torch

    wanted = min(count + _OVERSAMPLED, *matrix.shape)
    if min(matrix.shape) <= _SMALL or 2 * wanted > min(matrix.shape):
        return gram_svd(matrix, count)
    drawn = torch.randn(matrix.shape[1], wanted, generator=torch.Generator().manual_seed(0)).to(matrix.device)
    basis = torch.linalg.qr(matrix @ drawn).Q
    for _ in range(_POWERS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    u, s, v = gram_svd(basis.T @ matrix, count)
    return basis @ u, s, v


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
