"""Weighted average of the models."""

from weightsmith.blocks.weighted_sum import weighted_sum
from weightsmith.methods.method import Method, Parameter, cancellation_warning


class Linear(Method):
    """The weighted sum of the models, divided by the sum of the weights with `normalize` (a model soup)."""

    name = "linear"
    title = "Linear"
    paper = "https://arxiv.org/abs/2203.05482"
    advice = (
        "A mean: for checkpoints that are alike, such as those of one training run. Skills of their own shrink in "
        "it to their share."
    )
    parameters = (
        Parameter("weight", float, "input", "factor on this model"),
        Parameter("normalize", bool, "shared", "divide by the sum of the weights", default=True),
    )

    def warning(self, settings):
        weights = [values["weight"] for values in settings.per_input]
        return cancellation_warning(weights) if settings.shared["normalize"] else None

    def combine(self, block, settings, statistics):
        weights = [values["weight"] for values in settings.per_input]
        inputs = block.inputs
        out = inputs[0].mul_(weights[0])
        for row, weight in zip(inputs[1:], weights[1:], strict=True):
            out.add_(row, alpha=weight)
        return out.div_(sum(weights)) if settings.shared["normalize"] else out

    def fused(self, block, settings, statistics):
        weights = [values["weight"] for values in settings.per_input]
        return weighted_sum(block, weights, sum(weights) if settings.shared["normalize"] else 1.0)
