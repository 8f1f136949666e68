"""Model Stock: between the base and the mean of the fine-tunes, where the angle between the fine-tunes says."""

import math
from itertools import combinations

import torch

from weightsmith.methods.method import Method, Parameter, Statistics

_SMALLEST_PRODUCT = 1e-6  # mergekit's bounds for a product of norms and for a denominator
_SINGULAR = 1e-6


class ModelStock(Method):
    """https://arxiv.org/abs/2403.19522. t = n cos / (1 + (n - 1) cos) for n fine-tunes whose task vectors have the mean cosine
    cos, of whole tensors, or of rows with `filter_wise`; out = t mean + (1 - t) base."""

    name = "model_stock"
    title = "Model Stock"
    paper = "https://arxiv.org/abs/2403.19522"
    parameters = (
        Parameter("filter_wise", bool, "shared", "an angle for each row instead of each tensor", default=False),
    )
    needs_base = True
    inputs = (3, None)
    row_wise = True

    def statistics(self, scan, settings):
        if settings.shared["filter_wise"]:
            return Statistics({"width": scan.width})
        others = settings.others
        squares = dict.fromkeys(others, 0.0)
        dots = dict.fromkeys(combinations(others, 2), 0.0)
        for block in scan.blocks():
            for i in others:
                delta = block.inputs[i].sub_(block.inputs[settings.base_index])
                squares[i] += torch.dot(delta, delta).item()
            for a, b in dots:
                dots[a, b] += torch.dot(block.inputs[a], block.inputs[b]).item()
        cosines = [
            max(-1.0, min(1.0, dot / max(math.sqrt(squares[a] * squares[b]), _SMALLEST_PRODUCT)))
            for (a, b), dot in dots.items()
        ]
        return Statistics({"t": _share(sum(cosines) / len(cosines), len(others))})

    def combine(self, block, settings, statistics):
        others, base = settings.others, block.inputs[settings.base_index]
        mean = block.out.copy_(block.inputs[others[0]])
        for i in others[1:]:
            mean.add_(block.inputs[i])
        mean.div_(len(others))
        if "t" in statistics.values:
            t = statistics.values["t"]
            return mean.mul_(t).add_(base, alpha=1 - t)
        width = statistics.values["width"]
        deltas = {i: (block.inputs[i] - base).view(-1, width) for i in others}
        norms = {i: delta.norm(dim=1) for i, delta in deltas.items()}
        pairs = list(combinations(others, 2))
        cosine = torch.zeros(len(base) // width)
        for a, b in pairs:
            product = (norms[a] * norms[b]).clamp(min=_SMALLEST_PRODUCT)
            cosine += ((deltas[a] * deltas[b]).sum(1) / product).clamp(-1, 1)
        cosine /= len(pairs)
        denominator = 1 + (len(others) - 1) * cosine
        singular = denominator.abs() < _SINGULAR
        t = torch.where(singular, 0.0, len(others) * cosine / torch.where(singular, 1.0, denominator)).unsqueeze(1)
        return (t * mean.view(-1, width) + (1 - t) * base.view(-1, width)).view(-1)


def _share(cosine: float, count: int) -> float:
    denominator = 1 + (count - 1) * cosine
    return 0.0 if abs(denominator) < _SINGULAR else count * cosine / denominator
