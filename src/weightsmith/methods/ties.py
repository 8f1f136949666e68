"""TIES: trim each task vector, elect a sign per element, average what agrees with it."""

import torch

from weightsmith.methods.magnitude_threshold import kth_largest, magnitude_bits
from weightsmith.methods.method import Method, Statistics
from weightsmith.methods.task_vectors import task_vector_parameters

_L1_EPSILON = 1e-7


class Ties(Method):
    """https://arxiv.org/abs/2306.01708. The elected sign is that of the weighted sum, and a zero sum counts as plus.

    As in mergekit the mean divides by the weights that agree (paper: by their number). Trimming keeps the
    k = max(1, int(density * n)) largest magnitudes, and with them any that equal the smallest kept one: mergekit
    drops some of those, whichever its sort puts last; `Statistics.trim_ties` counts them.
    """

    name = "ties"
    title = "TIES"
    paper = "https://arxiv.org/abs/2306.01708"
    parameters = task_vector_parameters(normalize=True)
    needs_base = True

    def statistics(self, scan, settings):
        trimmed = [i for i in settings.others if settings.per_input[i]["density"] < 1]
        if not trimmed or not scan.numel:
            return Statistics()

        def deltas():
            for blocks in scan.blocks():
                yield [blocks[i] - blocks[settings.base_index] for i in trimmed]

        counts = [max(1, int(settings.per_input[i]["density"] * scan.numel)) for i in trimmed]
        thresholds = kth_largest(deltas, counts)
        values = {i: (bound.bits, 1.0) for i, bound in zip(trimmed, thresholds, strict=True)}
        if settings.shared["rescale"]:
            before, after = [0.0] * len(trimmed), [0.0] * len(trimmed)
            for series in deltas():
                for j, delta in enumerate(series):
                    sizes = delta.abs().double()
                    before[j] += sizes.sum().item()
                    after[j] += sizes[magnitude_bits(delta) >= thresholds[j].bits].sum().item()
            for j, i in enumerate(trimmed):
                if min(before[j], after[j]) >= _L1_EPSILON:
                    values[i] = (thresholds[j].bits, before[j] / after[j])
        return Statistics(values, sum(bound.ties for bound in thresholds))

    def combine(self, blocks, settings, statistics):
        base = blocks[settings.base_index]
        weights, deltas, total = [], [], torch.zeros_like(base)
        for i in settings.others:
            delta = blocks[i] - base
            if i in statistics.values:
                bits, factor = statistics.values[i]
                delta.mul_(magnitude_bits(delta) >= bits)
                if factor != 1:
                    delta.mul_(factor)
            weights.append(settings.per_input[i]["weight"])
            deltas.append(delta.mul_(weights[-1]))
            total.add_(delta)
        elected = torch.where(total >= 0, 1.0, -1.0)
        mixed, divisor = torch.zeros_like(base), torch.zeros_like(base)
        for delta, weight in zip(deltas, weights, strict=True):
            agrees = delta.sign() == elected
            mixed.add_(delta.mul_(agrees))
            divisor.add_(agrees, alpha=weight)
        if settings.shared["normalize"]:
            mixed.div_(torch.where(divisor == 0, 1.0, divisor))
        return mixed.mul_(settings.shared["lambda"]).add_(base)
