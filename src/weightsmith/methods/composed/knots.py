"""KnOTS: task vectors brought to common directions before they are merged."""

from __future__ import annotations

from weightsmith.methods.composed.rules import ComposedMethod, merge_by_rule, rule_parameters
from weightsmith.methods.matrices.linear_algebra import gram_svd
from weightsmith.methods.matrices.matrix_method import OF_ADAPTERS

_LEAST = 1e-5  # a smaller singular value is none, as in the authors' code


class Knots(ComposedMethod):
    """The task vectors side by side, [tau_1 | ... | tau_N] = U S [V_1 | ... | V_N]^T, have directions U in common: the
    `rule`, TIES by default, merges their coordinates S V_i^T, and U brings the result back. Made for LoRA adapters,
    whose task vectors have few directions each."""

    name = "knots"
    title = "KnOTS"
    paper = "https://arxiv.org/abs/2410.19735"
    advice = (
        "For LoRA adapters whose directions differ, with ties or dare_ties inside; in our measurements as good as ties "
        "(docs/method-evidence.md)."
    )
    parameters = rule_parameters(rule="ties", embeddings="mean", vectors="mean")
    cost = (
        "one eigenvalue problem as tall as the matrix, N + 1 matrix products, and what the rule costs; each matrix is "
        "held whole, in float32, one of every model for each thread" + OF_ADAPTERS
    )
    weighted = False

    def takes_factors(self, settings):
        return True

    def merge_factors(self, factors, settings, streams):
        import torch

        u = torch.linalg.svd(torch.cat([b for b, _ in factors], 1).double(), full_matrices=False)[0]
        deltas = torch.stack([(u.T @ b.double() @ a.double()).float() for b, a in factors])
        shape = len(u), deltas.shape[2]
        return (u @ self.merge_matrices(deltas, settings, streams, shape).double()).float()

    def merge_matrices(self, deltas, settings, streams, shape):
        import torch

        u, s, _ = gram_svd(torch.cat(list(deltas), 1))
        u = u[:, s > _LEAST]
        if not u.shape[1]:
            return torch.zeros_like(deltas[0])
        coordinates = torch.stack([u.T @ delta for delta in deltas])
        return u @ merge_by_rule(coordinates, settings, streams, whole=True)
