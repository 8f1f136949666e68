"""Multi-SLERP: the direction between all models on the sphere, with their weighted mean length."""

import math

import numpy as np

from weightsmith.blocks.weighted_sum import add_weighted_changes, dot_products, weighted_sum
from weightsmith.errors import MergeError
from weightsmith.methods.method import Method, Parameter, Statistics


class MultiSlerp(Method):
    """The mean direction of the models, with their weighted mean norm: sum(w_i x_i / |x_i|), brought to the length
    sum(w_i |x_i|). With a base, x_i are task vectors, and the result is added to the base.

    This is what mergekit 0.1.5 computes. It goes on from that direction by the mean of the tangent vectors there, which
    is zero at that very point, in exact arithmetic. Directions that cancel have no mean: two models are then averaged,
    as in mergekit, more are refused. Where no model differs from the base, the result is the base (with three models
    or more mergekit stops there)."""

    name = "multislerp"
    title = "Multi-SLERP"
    cost = "each input is read twice"
    paper = "https://goddard.blog/posts/multislerp-wow-what-a-cool-idea"
    advice = "slerp for more than two; of fine-tunes of one base the result is close to their mean."
    parameters = (
        Parameter("weight", float, "non_base", "share of this model"),
        Parameter("normalize_weights", bool, "shared", "divide the weights by their sum", default=True),
        Parameter("eps", float, "shared", "added to norms; a shorter mean direction is none", default=1e-8, at_least=0),
    )

    def objection(self, settings):
        weights = [settings.per_input[i]["weight"] for i in settings.others]
        if len(weights) > 1 and settings.shared["normalize_weights"] and not math.fsum(weights):
            return f"the weights {', '.join(f'{w:g}' for w in weights)} add up to 0, and are to be divided by that"
        return None

    def statistics(self, scan, settings):
        others, eps = settings.others, settings.shared["eps"]
        factors = np.zeros(len(settings.per_input))
        if len(others) == 1:
            factors[others] = 1.0
            return Statistics({"factors": factors})
        products = (
            dot_products(scan, settings.base)[np.ix_(others, others)] if scan.numel else np.zeros([len(others)] * 2)
        )
        weights = np.array([settings.per_input[i]["weight"] for i in others])
        if settings.shared["normalize_weights"]:
            weights = weights / weights.sum()
        norms = np.sqrt(products.diagonal())
        of_units = weights / (norms + eps) if norms.any() else weights * 0  # sum of unit vectors -> factors of x_i
        length = np.sqrt(np.maximum(0.0, of_units @ products @ of_units))
        if not np.isfinite(length):
            factors[others] = np.nan  # an input holds NaN or infinity, which the engine looks for
        elif length >= eps and length > 0:
            factors[others] = of_units / length * (norms @ weights)
        elif len(others) == 2:
            factors[others] = weights
        elif norms.any():
            raise MergeError(
                "the directions of the models cancel, weighted as they are, so they have no mean; change the weights, "
                "or use karcher or linear"
            )
        return Statistics({"factors": factors})

    def combine(self, block, settings, statistics):
        inputs, factors = block.inputs, statistics.values["factors"].tolist()
        base = inputs[settings.base] if settings.base is not None else inputs[0] * 0
        return base + sum((inputs[i] - base) * factors[i] for i in settings.others)

    def fused(self, block, settings, statistics):
        factors = statistics.values["factors"].tolist()
        if settings.base is None:
            return weighted_sum(block, factors)
        return add_weighted_changes(block, settings.base, factors)
