"""NuSLERP: spherical interpolation by weights, of tensors, rows or columns, or of task vectors."""

import math
from collections.abc import Iterator

import numpy as np

from weightsmith.blocks.block import Block, Scan
from weightsmith.blocks.weighted_sum import add_weighted_changes, dot_products, weighted_sum
from weightsmith.methods.method import Method, Parameter, Statistics
from weightsmith.methods.tensor_settings import Settings

_LEAST_NORM = 1e-7  # mergekit's bounds: for a norm that is divided by,
_LEAST_SINE = 1e-8  # and for a sine
_LEAST_SUM = 1e-6  # weights that add up to less are taken as equal


class NuSlerp(Method):
    """Spherical interpolation of two models at t = w_2 / (w_1 + w_2); of their task vectors, if there is a base. One
    angle for the whole tensor with `nuslerp_flatten`, else one for each row, or, with `nuslerp_row_wise`, for each
    column: the key says the opposite of what mergekit 0.1.5 does with a weight of [outputs, inputs], and mergekit is
    followed."""

    name = "nuslerp"
    title = "NuSLERP"
    cost = "each input is read twice"
    paper = "https://github.com/arcee-ai/mergekit/blob/main/docs/merge_methods.md#nuslerp-nuslerp"
    advice = "slerp with weights, and with a base on the task vectors: take it for two fine-tunes of one base."
    parameters = (
        Parameter("weight", float, "non_base", "share of this model"),
        Parameter("nuslerp_flatten", bool, "shared", "one angle for the whole tensor", default=True),
        Parameter("nuslerp_row_wise", bool, "shared", "one angle per column instead of per row", default=False),
    )
    inputs = (2, 3)
    row_wise = True

    @property
    def needs_torch(self) -> bool:
        """For all angles but one."""
        return True

    def objection(self, settings):
        if len(settings.others) != 2:
            count = len(settings.others)
            return f"two models are interpolated, besides the base if there is one; this recipe has {count}"
        return None

    def statistics(self, scan, settings):
        first, second = settings.others
        weights = [settings.per_input[i]["weight"] for i in (first, second)]
        total = sum(weights)
        t = weights[1] / total if abs(total) >= _LEAST_SUM else 0.5
        values = {"t": t, "width": scan.width}
        if settings.shared["nuslerp_flatten"]:
            products = dot_products(scan, settings.base) if scan.numel else np.zeros((3, 3))
            values["factors"] = tuple(
                float(f) for f in _factors(t, products[first, first], products[first, second], products[second, second])
            )
        elif settings.shared["nuslerp_row_wise"]:
            values["columns"] = _column_factors(scan, settings, t)
        return Statistics(values)

    def combine(self, block, settings, statistics):
        import torch

        inputs = block.inputs
        base = inputs[settings.base] if settings.base is not None else torch.zeros_like(inputs[0])
        first, second = (inputs[i] - base for i in settings.others)
        values = statistics.values
        if "factors" in values:
            of_first, of_second = values["factors"]
        elif "columns" in values:
            columns = (block.start + np.arange(len(block.out))) % len(values["columns"][0])
            of_first, of_second = (torch.from_numpy(f[columns]).to(base.device) for f in values["columns"])
        else:
            rows = [x.view(-1, values["width"]).double() for x in (first, second)]
            sums = ((rows[a] * rows[b]).sum(1).cpu().numpy() for a, b in ((0, 0), (0, 1), (1, 1)))
            factors = (np.repeat(f, values["width"]).astype(np.float32) for f in _factors(values["t"], *sums))
            of_first, of_second = (torch.from_numpy(f).to(base.device) for f in factors)
        return base + (first * of_first + second * of_second)

    def fused(self, block, settings, statistics):
        if "factors" not in statistics.values:
            return super().fused(block, settings, statistics)
        factors = [0.0] * len(settings.per_input)
        for i, factor in zip(settings.others, statistics.values["factors"], strict=True):
            factors[i] = factor
        if settings.base is None:
            return weighted_sum(block, factors)
        return add_weighted_changes(block, settings.base, factors)


def _factors(t: float, square_0, product, square_1):
    """The two factors of spherical interpolation at `t`; squares of norms and the dot product, numbers or arrays."""
    norms = [np.maximum(np.sqrt(square), _LEAST_NORM) for square in (square_0, square_1)]
    cosine = np.clip(product / (norms[0] * norms[1]), -1, 1)
    straight = 1 - cosine**2 <= _LEAST_SINE**2
    angle = np.arccos(np.where(straight, 0.0, cosine))
    sine = np.sin(angle)
    return (
        np.where(straight, 1 - t, np.sin((1 - t) * angle) / sine),
        np.where(straight, t, np.sin(t * angle) / sine),
    )


def _column_factors(scan, settings, t: float) -> tuple[np.ndarray, np.ndarray]:
    """The two factors of each column, float32 [columns]; the columns run along the first dimension."""
    count = math.prod(scan.shape[1:])
    sums = np.zeros((3, count))
    for block in scan.blocks():
        if block.device != "cpu":
            for total, products in zip(sums, _products_on_device(block, scan, settings), strict=True):
                _add_columns(total, products, block.start)
            continue
        values = block.floats()
        if settings.base is not None:
            values -= values[settings.base].copy()
        first, second = (values[i].reshape(-1, scan.width).astype(np.float64) for i in settings.others)
        for total, (a, b) in zip(sums, ((first, first), (first, second), (second, second)), strict=True):
            _add_columns(total, a * b, block.start)
    of_first, of_second = _factors(t, *sums)
    return of_first.astype(np.float32), of_second.astype(np.float32)


def _products_on_device(block: Block, scan: Scan, settings: Settings) -> Iterator[np.ndarray]:
    """Of both inputs with themselves and each other, float64 [n, width]; one row, their sum, where each row has all
    columns."""
    inputs = block.inputs
    if settings.base is not None:
        inputs -= inputs[settings.base].clone()
    first, second = (inputs[i].view(-1, scan.width).double() for i in settings.others)
    for a, b in ((first, first), (first, second), (second, second)):
        products = a * b
        if math.prod(scan.shape[1:]) == scan.width:
            products = products.sum(0, keepdim=True)
        yield products.cpu().numpy()


def _add_columns(total: np.ndarray, rows: np.ndarray, start: int) -> None:
    """Add to the column sums `total` [columns] the rows [n, width] that begin at element `start`."""
    count, width = len(total), rows.shape[1]
    if count == width:
        total += rows.sum(axis=0)
        return
    if count == 1:
        total += rows.sum()
        return
    for number, row in enumerate(rows):  # more than two dimensions
        column = (start + number * width) % count
        total[column : column + width] += row
