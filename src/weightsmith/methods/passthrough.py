"""One model's tensors as they are, or scaled: for stacking slices."""

from weightsmith.blocks.weighted_sum import weighted_sum
from weightsmith.methods.method import Method, Parameter


class Passthrough(Method):
    """Takes each tensor from one model as it is, or times `scale`; with `slices`, it stacks layers of several models
    (depth up-scaling)."""

    name = "passthrough"
    title = "Passthrough"
    paper = "https://arxiv.org/abs/2312.15166"  # depth up-scaling, its usual purpose
    advice = "To stack layers of one or several models with `slices`, or to bake an adapter into its base."
    parameters = (Parameter("scale", float, "input", "factor on the tensor", default=None),)
    inputs = (1, 1)

    def combine(self, block, settings, statistics):
        scale = settings.per_input[0]["scale"]
        return block.inputs[0] if scale is None else block.inputs[0].mul_(scale)

    def fused(self, block, settings, statistics):
        scale = settings.per_input[0]["scale"]
        return weighted_sum(block, [1.0 if scale is None else scale])
