"""Where blocks are combined: the processor, or an accelerator that torch knows."""

from __future__ import annotations

from weightsmith.errors import MergeError


def check_device(device: str) -> None:
    """Raises MergeError where torch has no such device. `cpu` asks for no torch at all."""
    if device == "cpu":
        return
    import torch

    try:
        torch.ones(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise MergeError(
            f"--device {device}: torch cannot use it here ({reason}); leave it out to merge on the processor"
        ) from error
