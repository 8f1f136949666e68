"""Several tensors at once on one device: a stream for each thread, and no more threads than its memory holds."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext

_MOST = 6  # threads: while one tensor is computed, others are read, copied and written
_TEMPORARIES = 16  # float32 for each element of a block, beside four for each input

_own = threading.local()


def own_stream(device: str) -> AbstractContextManager[object]:
    """Within it, what the calling thread gives to an NVIDIA or AMD device waits for no other thread's work."""
    if not device.startswith("cuda"):
        return nullcontext()
    import torch

    if getattr(_own, "device", None) != device:
        _own.device, _own.stream = device, torch.cuda.Stream(device)
    return torch.cuda.stream(_own.stream)


def device_threads(device: str, threads: int, elements: int, models: int) -> int:
    """How many of `threads` give work to `device` at a time, blocks of so many elements of so many models."""
    if device == "cpu":
        return threads
    most = min(threads, _MOST)
    if not device.startswith("cuda"):
        return most
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(most, free // (elements * 4 * (4 * models + _TEMPORARIES))))
