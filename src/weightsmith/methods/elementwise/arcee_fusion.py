"""Arcee Fusion: of one fine-tune, the changes that matter most, by size and by what they do to their row."""

from __future__ import annotations

from weightsmith.blocks.order_statistics import kth_largest_score
from weightsmith.methods.method import Method, Statistics

_EPSILON = 1e-8
_QUARTILES = (0.25, 0.5, 0.75)


class ArceeFusion(Method):
    """Takes an element from the other model where its importance is at least median + 1.5 (third - first quartile), of
    this tensor; from the base elsewhere. Importance: how far the element is from the base, times the Kullback-Leibler
    divergence of its row from the base's row, both as softmax.

    The quartiles are exact. mergekit 0.1.5 does the same up to a million elements; of larger tensors it draws a million
    at random, and its result changes from run to run."""

    name = "arcee_fusion"
    title = "Arcee Fusion"
    cost = "each input is read three times"
    paper = "https://www.arcee.ai/blog/meet-mergekit-v0-1-arcee-fusion-expanded-model-support-multi-gpu-acceleration"
    advice = (
        "To bring a second model into a first one where it matters; it decides how much by itself, so there is "
        "nothing to search."
    )
    parameters = ()
    needs_base = True
    inputs = (2, 2)
    row_wise = True

    def statistics(self, scan, settings):
        if not scan.numel:
            return Statistics()
        width = max(1, scan.width)

        def scores():
            for block in scan.blocks():
                yield self._importance(block, settings, width)

        ranks = [scan.numel - int(quartile * (scan.numel - 1)) for quartile in _QUARTILES]
        first, median, third = (bound.value for bound in kth_largest_score(scores, ranks))
        return Statistics({"width": width, "least": float(median + 1.5 * (third - first))})

    def combine(self, block, settings, statistics):
        base, other = block.inputs[settings.base_index], block.inputs[1 - settings.base_index]
        important = self._importance(block, settings, statistics.values["width"]) >= statistics.values["least"]
        return base + (other - base) * important

    def _importance(self, block, settings, width):
        inputs = block.inputs.view(2, -1, width)
        base, other = inputs[settings.base_index], inputs[1 - settings.base_index]
        p, q = other.softmax(-1) + _EPSILON, base.softmax(-1) + _EPSILON
        divergence = (p * (p / q).log()).sum(-1, keepdim=True)
        return ((other - base).abs() * divergence).view(-1)
