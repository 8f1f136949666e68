"""The bounds of task vectors for a thousand densities, found once: a candidate with another density then needs no pass
of its own."""

from __future__ import annotations

import numpy as np

from weightsmith.blocks.threshold import Threshold
from weightsmith.planning.plan import TensorPlan
from weightsmith.recipe_search.space import DENSITY_STEP

_DENSITIES = [round(k * DENSITY_STEP, 9) for k in range(1, round(1 / DENSITY_STEP))]
_LARGEST = 1 << 29  # elements: sorting takes two float32 copies of a tensor; larger ones are counted anew each time
_LARGEST_ON_DEVICE = 1 << 27  # there it takes six, as places are sorted along

Key = tuple[str, str, str, str]


class BoundTable:
    """For every tensor and fine-tune that was asked for, the k-th largest magnitude for k = density * n, and how many
    are at least as large. 16 kB for each."""

    def __init__(self, device: str = "cpu") -> None:
        self._device, self._largest = device, _LARGEST if device == "cpu" else _LARGEST_ON_DEVICE
        self._rows: dict[Key, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def find(self, tensor: TensorPlan, base: int, number: int, k: int) -> Threshold | None:
        """The bound of `tensor`'s input `number` minus input `base`; None where `k` belongs to none of the
        densities."""
        other_source, base_source = tensor.sources[number], tensor.sources[base]
        key = (other_source.model.reference, other_source.tensor, base_source.model.reference, base_source.tensor)
        if tensor.info.numel > self._largest:
            return None
        if key not in self._rows:
            self._rows[key] = _sorted_bounds(tensor, base, number, self._device)
        counts, bits, kept = self._rows[key]
        position = int(np.searchsorted(counts, k))
        if position == len(counts) or counts[position] != k:
            return None
        return Threshold(int(bits[position]), int(kept[position]), k)


def _sorted_bounds(
    tensor: TensorPlan, base: int, number: int, device: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size = tensor.info.numel
    delta, start = np.empty(size, np.float32), np.empty(size, np.float32)
    for source, out in ((tensor.sources[number], delta), (tensor.sources[base], start)):
        source.model.checkpoint.read(source.tensor, 0, size, out)
    np.subtract(delta, start, out=delta)
    np.abs(delta, out=delta)
    ordered = delta.view(np.int32)  # magnitudes order like their bits
    if device == "cpu":
        ordered.sort()
    else:
        import torch

        ordered = torch.from_numpy(ordered).to(device).sort().values.cpu().numpy()
    counts = np.unique([max(1, int(density * size)) for density in _DENSITIES])
    bits = ordered[size - counts]
    return counts, bits, size - np.searchsorted(ordered, bits, side="left")
