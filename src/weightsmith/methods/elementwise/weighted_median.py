"""The median of the models, element by element."""

from weightsmith.methods.method import Method, Parameter


class WeightedMedian(Method):
    """Of each element the value that half of the weight lies below and half above; the mean of two where they share the
    middle. One model that is far off moves it no further than the next one. Edgeworth 1888; for models no paper is
    followed."""

    name = "weighted_median"
    title = "Weighted median"
    paper = "https://en.wikipedia.org/wiki/Weighted_median"
    advice = "A mean that outliers do not move: for many fine-tunes of one task, some of them bad."
    parameters = (Parameter("weight", float, "input", "share of this model", default=1.0, above=0.0, at_most=1e6),)

    def combine(self, block, settings, statistics):
        import torch

        inputs = block.inputs
        values, order = inputs.sort(0)
        weights = torch.tensor([own["weight"] for own in settings.per_input], dtype=torch.float64, device=values.device)
        reached = weights[order].cumsum(0)
        half = weights.sum() / 2
        near = weights.sum() * 1e-12  # sums of weights such as 0.1 are not exact
        first = (reached >= half - near).int().argmax(0, keepdim=True)
        shared = (reached.gather(0, first) - half).abs() <= near
        second = (first + shared.int()).clamp(max=len(values) - 1)
        median = ((values.gather(0, first) + values.gather(0, second)) / 2)[0]
        return median.where(inputs.isfinite().all(0), torch.nan)  # a median would hide them
