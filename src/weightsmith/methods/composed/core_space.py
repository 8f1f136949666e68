"""Core Space: LoRA adapters merged in the small space that all of them together span."""

from __future__ import annotations

from weightsmith.methods.composed.rules import ComposedMethod, merge_by_rule, rule_parameters
from weightsmith.methods.matrices.adapter_space import adapter_space
from weightsmith.methods.matrices.linear_algebra import gram_svd

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

    def takes_factors(self, settings):
        return True

    def merge_factors(self, factors, settings, streams):
        space = adapter_space(factors)
        return space.expanded(merge_by_rule(space.cores, settings, streams, whole=True))

    def merge_matrices(self, deltas, settings, streams, shape):
        import torch

        factors = []
        for delta in deltas:
            u, s, v = gram_svd(delta)
            kept = s > _LEAST * s[:1]
            factors.append((u[:, kept] * s[kept], v[:, kept].T))
        if not any(len(a) for _, a in factors):
            return torch.zeros_like(deltas[0])
        return self.merge_factors(factors, settings, streams)
