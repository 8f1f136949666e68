"""Core Space: LoRA adapters merged in the small space that all of them together span."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weightsmith.methods.composed.rules import ComposedMethod, merge_by_rule, rule_parameters
from weightsmith.methods.matrices.linear_algebra import gram_svd
from weightsmith.methods.method import Statistics

if TYPE_CHECKING:
    import torch

    Factors = list[tuple[torch.Tensor, torch.Tensor]]  # for each model b [rows, rank], a [rank, columns]

_LEAST = 1e-5  # of the largest singular value: a smaller one is rounding of base + adapter


class CoreSpace(ComposedMethod):
    """With task vectors B_i A_i, the right singular vectors V of all A_i under each other and the left ones U of all
    B_i beside each other span what the adapters can do. The `rule`, TSV-M by default, merges the small matrices
    M_i = U^T B_i A_i V, whose sides are the sum of the ranks, and U M V^T is the result. Nothing is lost on the way:
    task arithmetic gives what it gives on whole matrices. Other rules do not: TSV-M keeps 1/N of the sum of the ranks
    here, and 1/N of the matrix there; rules that look at elements look at those of M_i.

    Inputs are adapters on the base, `base+adapter`, whose matrices are taken as they are. Of other inputs B_i and A_i
    are found by an SVD; a rule that looks at elements then sees other ones than in the adapter that the model was made
    with."""

    name = "core_space"
    title = "Core Space"
    paper = "https://arxiv.org/abs/2509.17786"
    parameters = rule_parameters(rule="tsv_m", embeddings="mean", vectors="mean")
    cost = (
        "for adapters on the base, two SVDs of their matrices and what the rule costs on matrices as small as the sum "
        "of the ranks; for other inputs an eigenvalue problem per model and matrix more, which is held whole, in "
        "float32, one of every model for each thread"
    )
    advice = "For LoRA adapters of one base: exact, and fast."
    weighted = False

    def statistics(self, scan, settings):
        import torch

        if settings.role != "matrix" or not scan.numel:
            return super().statistics(scan, settings)
        found = [scan.low_rank(i) for i in settings.others]
        factors = [pair for pair in found if pair is not None]
        if len(factors) < len(found):
            return super().statistics(scan, settings)
        layout, width = settings.matrix, scan.width
        merged = torch.zeros((scan.numel // width, width))
        if layout and layout.transposed:
            merged, factors = merged.T, [(a.T, b.T) for b, a in factors]
        for rows in layout.rows_of_parts() if layout else [range(len(merged))]:
            index = list(rows)
            merged[index] = _merged([(b[index], a) for b, a in factors], settings, scan.streams)
        if layout and layout.transposed:
            merged = merged.T
        return Statistics({"merged": merged.reshape(-1), "from": scan.begin})

    def merge_matrices(self, deltas, settings, streams):
        factors = []
        for delta in deltas:
            u, s, v = gram_svd(delta)
            kept = s > _LEAST * s[:1]
            factors.append((u[:, kept] * s[kept], v[:, kept].T))
        return _merged(factors, settings, streams)


def _merged(factors: Factors, settings, streams) -> torch.Tensor:
    """float32 [rows, columns] of one matrix."""
    import torch

    rows, columns = len(factors[0][0]), factors[0][1].shape[1]
    bs, as_ = torch.cat([b for b, _ in factors], 1).double(), torch.cat([a for _, a in factors]).double()
    if not bs.shape[1]:
        return torch.zeros((rows, columns))
    if not (bs.isfinite().all() and as_.isfinite().all()):
        return torch.full((rows, columns), torch.nan)  # the engine says which input has them
    u = torch.linalg.svd(bs, full_matrices=False)[0]
    v = torch.linalg.svd(as_, full_matrices=False)[2].T
    cores = torch.stack([(u.T @ b.double()) @ (a.double() @ v) for b, a in factors])
    merged = merge_by_rule(cores.float(), settings, streams, whole=True)
    return (u @ merged.double() @ v.T).float()
