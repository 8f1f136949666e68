"""OrthoMerge: what rotates the base is merged as a rotation, the rest by another method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weightsmith.methods.composed.rules import ComposedMethod, merge_by_rule, rule_parameters
from weightsmith.methods.method import Parameter

if TYPE_CHECKING:
    import torch

_NEAR_IDENTITY = 1e-6  # of the largest singular value: where the base leaves the rotation open, nothing is rotated
_LEAST = 1e-8


class OrthoMerge(ComposedMethod):
    """Each model W_i is split into a rotation of the base and a rest, W_i = W_0 R_i + rest_i, where R_i is the rotation
    that brings the base closest to the model (`rotate: all`), or to the base with those rows of the model that go
    against the mean task vector (`conflicts`). Rotations are merged by their Cayley transforms A_i, antisymmetric
    matrices: the direction of their sum with the mean of their lengths. The rests are merged by the `rule`.

    The authors' code is followed, but for a base with fewer rows than columns, which leaves the rotation open in the
    directions that it does not have: there nothing is rotated, where an SVD takes any rotation. One model gives
    itself."""

    name = "ortho_merge"
    title = "OrthoMerge"
    paper = "https://arxiv.org/abs/2602.05943"
    advice = (
        "For fine-tunes by orthogonal transformations (OFT); for others it was as good as ties and took minutes "
        "for each merge (docs/method-evidence.md)."
    )
    parameters = rule_parameters(
        Parameter(
            "rotate",
            str,
            "shared",
            "which rows of a model the base is rotated to: those that conflict with the mean task vector, or all",
            default="conflicts",
            choices=("conflicts", "all"),
        ),
        rule="ties",
        embeddings="matrix",
        vectors="rule",
    )
    cost = (
        "one SVD as wide as the matrix and two linear systems per model, and what the rule costs: the dearest of all; "
        "each matrix is held whole, in float32, one of every model and one more for each thread"
    )
    weighted = False

    def gathered(self, scan, settings):
        import torch

        blocks = []
        for block in scan.blocks():
            inputs = block.inputs
            base = inputs[settings.base_index]
            blocks.append(torch.cat([inputs[settings.others] - base, base.unsqueeze(0)]))
        return torch.cat(blocks, 1)

    def merge_matrices(self, deltas, settings, streams, shape):
        import torch

        base, changes = deltas[-1].double(), deltas[:-1].double()
        mean, identity = changes.mean(0), torch.eye(base.shape[1], dtype=torch.float64, device=base.device)
        skews, rests = [], []
        for change in changes:
            if settings.shared["rotate"] == "conflicts":
                cosines = torch.nn.functional.cosine_similarity(change, mean, dim=1, eps=1e-6)
                target = base + change * (cosines < 0).unsqueeze(1)
            else:
                target = base + change
            rotation = _rotation(base.T @ target, identity)
            skew = torch.linalg.solve(rotation + identity, rotation - identity)
            skew = (skew - skew.T) / 2
            skews.append(skew)
            rests.append(base + change - base @ torch.linalg.solve(identity - skew, identity + skew))
        total = sum(skews[1:], skews[0])
        length = sum(float(skew.norm()) for skew in skews) / len(skews)
        merged = total * (length / float(total.norm())) if float(total.norm()) >= _LEAST else total * 0
        turned = base @ torch.linalg.solve(identity - merged, identity + merged)
        rest = merge_by_rule(torch.stack(rests).float(), settings, streams, whole=True)
        return (turned - base).float() + rest


def _rotation(product: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    """The orthogonal matrix nearest to `product`; the identity where that leaves it open."""
    import torch

    scale = torch.linalg.matrix_norm(product, ord="fro")
    u, _, vh = torch.linalg.svd(product + identity * (scale * _NEAR_IDENTITY))
    return u @ vh
