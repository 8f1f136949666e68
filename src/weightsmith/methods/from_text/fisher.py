"""Fisher merging: each element is the mean of the models', weighted by how much each model's predictions hang on it."""

from __future__ import annotations

from weightsmith.errors import MergeError
from weightsmith.methods.depth_scaling import DEPTH_SCALING
from weightsmith.methods.from_text.text_parameters import text_parameters
from weightsmith.methods.method import Method, Parameter, Statistics

_LEAST = 1e-30  # a sum of Fisher information that is none


class Fisher(Method):
    """Fisher-weighted averaging: sum_i w_i F_i W_i / sum_i w_i F_i, element by element, where F_i is the diagonal of
    the Fisher information of model i on its `text`: the mean square of the gradient of a token's log-likelihood, for
    tokens that the model itself draws.

    The paper is followed, which merges the body of a model: embeddings, heads and what else lies outside the layers get
    the weighted mean, and so do elements on which no model's predictions hang."""

    name = "fisher"
    title = "Fisher"
    paper = "https://arxiv.org/abs/2111.09832"
    needs_base = True
    reads_text = "fisher"
    advice = "A mean, in the end: fine-tunes that were added to each other without loss shrink as in any other mean."
    parameters = (
        Parameter("weight", float, "non_base", "this model's share, relative to the others", default=1.0),
        *text_parameters(samples=32, context=128),
        Parameter("lambda", float, "shared", "factor on the merged task vector", default=1.0),
        Parameter(
            "floor",
            float,
            "shared",
            "this share of the tensor's mean Fisher information is added to each element's",
            default=1e-6,
            at_least=0.0,
        ),
        *DEPTH_SCALING,
    )
    cost = (
        "each model reads its text once and is derived once, in float32 (all of it in memory); as much as its weights "
        "in float32 is kept on the disk for each model; then inputs and those are read once"
    )

    def objection(self, settings):
        weights = [settings.per_input[i]["weight"] for i in settings.others]
        if min(weights, default=1.0) < 0 or not sum(weights):
            return "weights are shares: none is negative, and one of them is above 0"
        return None

    def statistics(self, scan, settings):
        if settings.text is None:
            raise MergeError(f"{self.name} was given no statistics of a text")
        means = [settings.text.mean_fisher(number) for number in settings.others]
        return Statistics({"floor": settings.shared["floor"] * sum(means) / len(means)})

    def combine(self, block, settings, statistics):
        import torch

        inputs, others, text = block.inputs, settings.others, settings.text
        assert text is not None  # `statistics` has seen to it
        base, stop = inputs[settings.base_index], block.start + inputs.shape[1]
        shares = [settings.per_input[i]["weight"] for i in others]
        fishers = [text.fisher(number, block.start, stop) for number in others]
        above = torch.zeros_like(base, dtype=torch.float64)
        below, mean = torch.zeros_like(above), torch.zeros_like(above)
        for number, share, fisher in zip(others, shares, fishers, strict=True):
            delta = (inputs[number] - base).double()
            mean += delta * (share / sum(shares))
            if fisher is not None:
                weight = (fisher.to(base.device).double() + statistics.values["floor"]) * share
                above += delta * weight
                below += weight
        known = all(fisher is not None for fisher in fishers)
        merged = torch.where(below > _LEAST, above / below.clamp(min=_LEAST), mean) if known else mean
        merged = merged.float()
        return base + merged * (settings.shared["lambda"] * settings.scale)
