"""SVC: directions that several models share are scaled back to what each of them had."""

from __future__ import annotations

from weightsmith.methods.composed.rules import ComposedMethod, rule_of, rule_parameters
from weightsmith.methods.matrices.adapter_space import adapter_space
from weightsmith.methods.matrices.linear_algebra import gram_svd
from weightsmith.methods.matrices.matrix_method import OF_ADAPTERS, MatrixMethod
from weightsmith.methods.method import Parameter

_LEAST = 1e-12


class Svc(ComposedMethod):
    """Singular value calibration of what another method, the `rule`, makes: along each direction u of its merged task
    vector, that is compared with each model's own, s_i = <u^T merged, u^T tau_i> / |u^T tau_i|^2, and scaled by
    N / sum_i max(s_i, `alpha`). What all N models have comes out once, not N times. Tensors that are no matrices are
    the rule's. The authors' code is followed.

    The paper has `alpha` 0.1 after task arithmetic, TIES, DARE and Iso-C, 0.2 after Iso-CTS, 1 after TSV-M and WUDI."""

    name = "svc"
    title = "Singular value calibration"
    paper = "https://arxiv.org/abs/2602.05536"
    advice = (
        "Around a rule that adds: it takes back what fine-tunes have in common and a sum counts several times, "
        "without a weight to be searched."
    )
    parameters = rule_parameters(
        Parameter(
            "alpha", float, "shared", "the least that a model's share counts", default=0.1, above=0.0, at_most=100.0
        ),
        rule="task_arithmetic",
        embeddings="rule",
        vectors="rule",
    )
    cost = (
        "what the rule costs, and one eigenvalue problem and N + 2 matrix products per matrix, which is held whole, in "
        "float32, one of every model and one more for each thread" + OF_ADAPTERS + ", unless the rule looks at elements"
    )
    weighted = False

    def takes_factors(self, settings):
        rule, own = rule_of(settings)
        if isinstance(rule, MatrixMethod):
            return rule.equivariant
        return rule.name == "task_arithmetic" and not own.shared["normalize"]

    def merge_factors(self, factors, settings, streams):
        import torch

        rule, own = rule_of(settings)
        space = adapter_space(factors)
        weights = torch.tensor([own.per_input[i]["weight"] for i in own.others]).view(-1, 1, 1)
        weighted = space.cores * weights
        of_matrices = isinstance(rule, MatrixMethod)
        merged = rule.merge_matrices(weighted, own, streams, space.shape) if of_matrices else weighted.sum(0)
        return space.expanded(
            self.merge_matrices(torch.cat([space.cores, merged[None]]), settings, streams, space.shape)
        )

    def gathered(self, scan, settings):
        import torch

        rule, own = rule_of(settings)
        statistics = rule.statistics(scan, own)
        blocks = []
        for block in scan.blocks():
            inputs = block.inputs
            base = inputs[settings.base_index]
            merged = rule.combine(block, own, statistics)
            blocks.append(torch.cat([inputs[settings.others], merged.unsqueeze(0)]) - base)
        return torch.cat(blocks, 1)

    def merge_matrices(self, deltas, settings, streams, shape):
        *own, merged = deltas
        u, _, _ = gram_svd(merged)
        along = u.T @ merged
        shares = along.new_zeros(len(along))
        for delta in own:
            own_along = u.T @ delta
            share = (along * own_along).sum(1) / own_along.square().sum(1).clamp(min=_LEAST)
            shares += share.clamp(min=settings.shared["alpha"])
        return u @ (along * (len(own) / shares).unsqueeze(1))
