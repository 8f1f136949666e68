"""Consensus: of the summed task vectors, the elements that matter to several models."""

from weightsmith.methods.depth_scaling import DEPTH_SCALING
from weightsmith.methods.method import Method, Parameter


class Consensus(Method):
    """Consensus merging with TALL masks: an element matters to a model where its own change is at least `tall_lambda`
    times what all others together add, |tau_i| >= tall_lambda |sum - tau_i|. The sum of the task vectors is kept where
    it matters to `agreement` models or more, and dropped where it is one model's own or nobody's.

    `lambda`, 0.4 by default, and `tall_lambda`, 0.5, are MergeBench's for language models; the paper searches both."""

    name = "consensus"
    title = "Consensus task arithmetic"
    paper = "https://arxiv.org/abs/2405.07813"
    advice = (
        "For many fine-tunes: it keeps what several of them use. Skills that share nothing were lost at its defaults, "
        "and kept with `lambda` 1.5 (docs/method-evidence.md)."
    )
    parameters = (
        Parameter("weight", float, "non_base", "factor on this model's task vector", default=1.0),
        Parameter("tall_lambda", float, "shared", "the share of the others that a change has to reach", default=0.5),
        Parameter("agreement", int, "shared", "how many models an element has to matter to", default=2, at_least=1),
        Parameter("lambda", float, "shared", "factor on the merged task vector", default=0.4),
        *DEPTH_SCALING,
    )
    needs_base = True

    def objection(self, settings):
        wanted, count = settings.shared["agreement"], len(settings.others)
        return f"agreement is {wanted}, of {count} models; nothing would be left" if wanted > count else None

    def combine(self, block, settings, statistics):
        inputs = block.inputs
        base = inputs[settings.base_index]
        deltas = [(inputs[i] - base) * settings.per_input[i]["weight"] for i in settings.others]
        total = sum(deltas[1:], deltas[0])
        share = settings.shared["tall_lambda"]
        count = sum((delta.abs() >= share * (total - delta).abs()).int() for delta in deltas)
        kept = total * (count >= settings.shared["agreement"])
        return base + kept * (settings.shared["lambda"] * settings.scale)
