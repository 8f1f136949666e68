"""What is near the base is taken from the other model, what is far moves by a fixed step."""

from weightsmith.methods.method import Method, Parameter

_LEAST_DISTANCE = 1e-6  # smaller ones count as this, as in mergekit


class NearSwap(Method):
    """Elements that differ from the base by less than `t` are the other model's; the others move by `t` towards it:
    base + clip(t / |other - base|, 0, 1) (other - base)."""

    name = "nearswap"
    title = "NearSwap"
    paper = "https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001"
    advice = (
        "To bring a little of a second model into a first one, where the two nearly agree; `t` is in units of the "
        "weights."
    )
    parameters = (Parameter("t", float, "shared", "distance up to which elements are swapped", at_least=0.0),)
    needs_base = True
    inputs = (2, 2)

    def combine(self, block, settings, statistics):
        base, other = block.inputs[settings.base_index], block.inputs[1 - settings.base_index]
        distance = (other - base).abs().clamp(min=_LEAST_DISTANCE)
        return base.lerp(other, (settings.shared["t"] / distance).clamp(max=1.0))
