"""Model Stock: between the base and the mean of the fine-tunes, where the angle between the fine-tunes says."""

import math
from itertools import combinations

import numpy as np

from weightsmith.blocks.convert import load
from weightsmith.blocks.numba_support.compile import kernel
from weightsmith.blocks.weighted_sum import dot_products, weighted_sum
from weightsmith.methods.method import Method, Parameter, Statistics

SMALLEST_PRODUCT = 1e-6  # mergekit's bounds for a product of norms and for a denominator
SINGULAR = 1e-6


class ModelStock(Method):
    """Model Stock moves from the base towards the mean of the fine-tunes, further where their task vectors agree more:
    out = t mean + (1 - t) base, with t = n cos / (1 + (n - 1) cos) for n fine-tunes whose task vectors have the mean
    cosine cos."""

    name = "model_stock"
    title = "Model Stock"
    cost = "each input is read twice; once with filter_wise"
    paper = "https://arxiv.org/abs/2403.19522"
    advice = (
        "For fine-tunes of one task from one base; it stays close to the base, and distinct skills were lost in "
        "it (docs/method-evidence.md)."
    )
    parameters = (
        Parameter("filter_wise", bool, "shared", "one angle per row instead of one per tensor", default=False),
    )
    needs_base = True
    inputs = (3, None)
    row_wise = True

    def statistics(self, scan, settings):
        if settings.shared["filter_wise"]:
            return Statistics({"width": scan.width})
        others = settings.others
        products = dot_products(scan, settings.base_index)
        cosines = [
            max(-1.0, min(1.0, products[a, b] / max(math.sqrt(products[a, a] * products[b, b]), SMALLEST_PRODUCT)))
            for a, b in combinations(others, 2)
        ]
        return Statistics({"t": _share(sum(cosines) / len(cosines), len(others))})

    def combine(self, block, settings, statistics):
        inputs, others = block.inputs, settings.others
        base, mean = inputs[settings.base_index], inputs[others].mean(0)
        if "t" in statistics.values:
            t = statistics.values["t"]
            return mean * t + base * (1 - t)
        width = statistics.values["width"]
        deltas = {i: (inputs[i] - base).view(-1, width) for i in others}
        pairs = list(combinations(others, 2))
        cosine = base.new_zeros(len(base) // width)
        for a, b in pairs:
            product = (deltas[a].norm(dim=1) * deltas[b].norm(dim=1)).clamp(min=SMALLEST_PRODUCT)
            cosine += ((deltas[a] * deltas[b]).sum(1) / product).clamp(-1, 1)
        cosine /= len(pairs)
        denominator = 1 + (len(others) - 1) * cosine
        singular = denominator.abs() < SINGULAR
        t = (len(others) * cosine / denominator.masked_fill(singular, 1.0)).masked_fill(singular, 0.0).unsqueeze(1)
        return (t * mean.view(-1, width) + (1 - t) * base.view(-1, width)).view(-1)

    def fused(self, block, settings, statistics):
        others = settings.others
        if "t" not in statistics.values:
            _combine_rows(
                block.rows,
                block.dtype_codes,
                settings.base_index,
                np.array(others),
                statistics.values["width"],
                block.out,
            )
            return block.out
        t = statistics.values["t"]
        return weighted_sum(block, [1 - t if i == settings.base else t / len(others) for i in range(len(others) + 1)])


@kernel()
def _share(cosine: float, count: int) -> float:
    denominator = 1 + (count - 1) * cosine
    return 0.0 if abs(denominator) < SINGULAR else count * cosine / denominator


@kernel()
def _combine_rows(
    rows: np.ndarray, dtype_codes: np.ndarray, base: int, others: np.ndarray, width: int, out: np.ndarray
) -> None:
    """`combine` with an angle for each row."""
    count = others.size
    tiles = np.empty((dtype_codes.size, width), np.float32)
    products = np.empty((count, count), np.float64)
    for first in range(0, out.size, width):
        for m in range(dtype_codes.size):
            load(dtype_codes[m], rows[m], first, tiles[m])
        start, into = tiles[base], out[first : first + width]
        for i in range(width):
            mean = np.float32(0)
            for m in others:
                mean += tiles[m, i]
            into[i] = mean / np.float32(count)
        for a in range(count):
            for b in range(a + 1):
                total = np.float64(0)
                for i in range(width):
                    total += np.float64(tiles[others[a], i] - start[i]) * np.float64(tiles[others[b], i] - start[i])
                products[a, b] = total
        cosine = 0.0
        for a in range(count):
            for b in range(a):
                norms = max(math.sqrt(products[a, a]) * math.sqrt(products[b, b]), SMALLEST_PRODUCT)
                cosine += max(-1.0, min(1.0, products[a, b] / norms))
        cosine /= count * (count - 1) // 2
        t = np.float32(_share(cosine, count))
        for i in range(width):
            into[i] = t * into[i] + (np.float32(1) - t) * start[i]
