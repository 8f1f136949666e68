"""Weighted average of the models."""

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

    def combine(self, block, settings, statistics):
        weights = [given["weight"] for given in settings.per_input]
        out = block.inputs[0].mul_(weights[0])
        for row, weight in zip(block.inputs[1:], weights[1:], strict=True):
            out.add_(row, alpha=weight)
        return out.div_(sum(weights)) if settings.shared["normalize"] else out
