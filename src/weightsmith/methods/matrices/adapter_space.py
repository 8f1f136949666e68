"""The small space that LoRA adapters span: their task vectors without the directions that none of them has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Factors = list[tuple[torch.Tensor, torch.Tensor]]  # for each model b [rows, rank], a [rank, columns]


@dataclass(frozen=True)
class AdapterSpace:
    """`u` [rows, k] and `v` [columns, l], float64 with orthonormal columns; `cores`, float32 [models, k, l]: the task
    vectors are u core v^T. k and l are the sum of the ranks, where the matrix has so many rows and columns."""

    u: torch.Tensor
    v: torch.Tensor
    cores: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the weight."""
        return len(self.u), len(self.v)

    def expanded(self, core: torch.Tensor) -> torch.Tensor:
        """u core v^T, float32 [rows, columns]."""
        return (self.u @ core.double() @ self.v.T).float()


def adapter_space(factors: Factors) -> AdapterSpace:
    """The space of task vectors b_i a_i, whose ranks are not all 0: left singular vectors of all b_i beside each other,
    right ones of all a_i under each other.

    >>> b, a = torch.tensor([[1.0], [0.0], [0.0]]), torch.tensor([[0.0, 2.0]])
    >>> adapter_space([(b, a)]).cores.shape
    torch.Size([1, 1, 1])
    """
    import torch

    u = torch.linalg.svd(torch.cat([b for b, _ in factors], 1).double(), full_matrices=False)[0]
    v = torch.linalg.svd(torch.cat([a for _, a in factors]).double(), full_matrices=False)[2].T
    cores = torch.stack([(u.T @ b.double()) @ (a.double() @ v) for b, a in factors])
    return AdapterSpace(u, v, cores.float())
