"""Several tensors at once on one device or several: a stream for each thread, and no more threads than memory holds."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from weightsmith.errors import MergeError
from weightsmith.machine import device_memory, device_names
from weightsmith.methods.method import Method
from weightsmith.planning.plan import TensorPlan
from weightsmith.units import show_size

DEVICE_BLOCK = 1 << 24  # elements: most tensors are one block, which stays there from pass to pass
_MOST = 6  # threads for each device: while one tensor is computed, others are read, copied and written
_TEMPORARIES = 16  # float32 for each element of a block, beside four for each input
_SMALLEST, _FEW = 1 << 10, 1 << 22  # elements of a block


@dataclass(frozen=True)
class DevicePace:
    """How much is on the devices at a time: `threads` give them work, each a block of `block` elements, or on the
    processor of as many as is usual there."""

    threads: int
    block: int | None


class Devices:
    """The devices of a run, `cuda:0,cuda:1` in words; every thread gives its work to one of them."""

    def __init__(self, device: str) -> None:
        self.names = device_names(device)
        self._turns, self._own = itertools.count(), threading.local()

    @contextmanager
    def work(self) -> Iterator[str]:
        """The calling thread's device. Within it, what that thread gives to an NVIDIA or AMD device waits for no other
        thread's work. Raises MergeError where the device has too little memory."""
        if not hasattr(self._own, "name"):
            self._own.name = self.names[next(self._turns) % len(self.names)]
            self._own.stream = None
        name: str = self._own.name
        if name == "cpu":
            yield name
            return
        import torch

        if self._own.stream is None and name.startswith("cuda"):
            self._own.stream = torch.cuda.Stream(name)
        try:
            with torch.cuda.stream(self._own.stream) if self._own.stream else nullcontext():
                yield name
        except torch.OutOfMemoryError as error:
            free, total = device_memory(name)
            raise MergeError(
                f"--device {name}: its memory is full ({show_size(free)} of {show_size(total)} are free; other "
                "programs may hold some); `weightsmith merge` takes a bound, --memory 4GB, and smaller blocks then"
            ) from error

    def pace(
        self, threads: int, tensors: Sequence[TensorPlan], method: Method, memory: int | None = None
    ) -> DevicePace:
        """`threads`: at most; `memory`: bytes that may be taken on each device, instead of what is free. Raises
        MergeError where they do not hold one block, or one matrix of a method that takes them as a whole."""
        if self.names == ("cpu",):
            return DevicePace(threads, None)
        merged = [tensor for tensor in tensors if not tensor.copy]
        models = max((len(tensor.sources) for tensor in merged), default=1)
        matrices = [t for t in merged if method.of_matrices and t.settings.role == "matrix"]
        matrix = max((tensor.matrix_ends[0] for tensor in matrices), default=0)
        of_element = 4 * (4 * models + _TEMPORARIES)
        most = min(threads, _MOST * len(self.names))
        if memory is None:
            if not self.names[0].startswith("cuda"):
                return DevicePace(most, DEVICE_BLOCK)
            room = min(device_memory(name)[0] for name in self.names)
        else:
            room = memory
        needed = max(matrix, _SMALLEST) * of_element
        if memory is not None and room < needed:
            what = f"a matrix of {matrix:,} elements" if matrix > _SMALLEST else "the smallest block"
            inputs = f"{models} models" if models > 1 else "1 model"
            raise MergeError(
                f"--memory {show_size(memory)}: {what} of {inputs} takes up to {show_size(needed)} there; allow that "
                "much, or leave --device out"
            )
        # Smaller blocks before fewer threads, as long as a block is not all overhead.
        least = min(_FEW, room // of_element)
        block = min(DEVICE_BLOCK, max(_SMALLEST, least, room // (most // len(self.names) or 1) // of_element))
        at_a_time = max(1, room // (max(matrix, block) * of_element))
        return DevicePace(min(most, at_a_time * len(self.names)), block)


def wait_for_copies(device: str) -> None:
    """Until nothing that the calling thread gave to an NVIDIA or AMD device is still copied from or into memory here,
    which may then be used again. Other devices copy before they return."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.current_stream(device).synchronize()


def wait_for(device: str) -> None:
    """Until the devices have done what they were given."""
    if not device.startswith("cpu"):
        import torch

        for name in device_names(device):
            torch.accelerator.synchronize(name)
