"""Inputs that stay on a device from one candidate of a search to the next."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from weightsmith.machine import device_memory
from weightsmith.planning.plan import TensorSource

if TYPE_CHECKING:
    import torch

    from weightsmith.checkpoint.checkpoint import Checkpoint

Key = tuple[int, str, int, int]  # checkpoint, tensor, first element, how many


class DeviceInputs:
    """Stretches of inputs on a device, as they are stored. `budget`: bytes; what is beyond is copied there anew for
    each merge."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        # The checkpoint is kept as well: another could get the number of one that is gone.
        self._stretches: dict[Key, tuple[Checkpoint, torch.Tensor]] = {}
        self._lock = threading.Lock()
        self.nbytes = 0

    @classmethod
    def of_half(cls, device: str, workers: int = 1) -> DeviceInputs:
        """Half of the memory that is free there, shared among `workers`; the live model and its questions take the
        rest."""
        free, _ = device_memory(device)
        return cls(free // 2 // workers)

    def find(self, source: TensorSource, first: int, count: int) -> torch.Tensor | None:
        """[count] on the device, not to be overwritten; None where it is not there."""
        stretch = self._stretches.get(_key(source, first, count))
        return stretch[1] if stretch else None

    def keep(self, source: TensorSource, first: int, stored: torch.Tensor) -> None:
        """[n], if there is room. Other threads find it once it has arrived."""
        key = _key(source, first, len(stored))
        with self._lock:
            if key in self._stretches or self.nbytes + stored.nbytes > self._budget:
                return
            self.nbytes += stored.nbytes
        if stored.device.type == "cuda":
            import torch

            torch.cuda.current_stream(stored.device).synchronize()
        self._stretches[key] = source.model.checkpoint, stored


def _key(source: TensorSource, first: int, count: int) -> Key:
    return id(source.model.checkpoint), source.tensor, first, count
