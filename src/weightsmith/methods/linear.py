"""Weighted average of the models."""

import torch

from weightsmith.methods.method import Method, Parameter


class Linear(Method):
    """Model soups, https://arxiv.org/abs/2203.05482. out = sum(w_i x_i), divided by sum(w_i) with `normalize`."""

    name = "linear"
    title = "Linear"
    paper = "https://arxiv.org/abs/2203.05482"
    parameters = (
        Parameter("weight", float, "input", "how much of this model"),
        Parameter("normalize", bool, "shared", "divide by the sum of the weights", default=True),
    )

    def combine(self, blocks, settings, statistics):
        weights = [given["weight"] for given in settings.per_input]
        out = torch.zeros_like(blocks[0])
        for block, weight in zip(blocks, weights, strict=True):
            out.add_(block, alpha=weight)
        return out.div_(sum(weights)) if settings.shared["normalize"] else out
