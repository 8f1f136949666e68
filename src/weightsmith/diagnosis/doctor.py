"""`weightsmith doctor`: what works here, and what would make the rest work."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from weightsmith.diagnosis.check_extras import Extra, check_extras
from weightsmith.files.user_cache import user_cache
from weightsmith.machine import available_cores, available_memory, fast_precision, processor_flags
from weightsmith.version import __version__

_PROBE = 64 << 20  # bytes that are written and read
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "f16c", "neon", "asimd", "bf16", "sve")
_LLAMA_CPP = """
from llama_cpp import llama_cpp
print(llama_cpp.llama_print_system_info().decode().strip())
print(bool(llama_cpp.llama_supports_gpu_offload()))
"""


@dataclass(frozen=True)
class LlamaCpp:
    """llama.cpp's library. `problem`: why it does not run; `build`: what it was built with; `offload`: whether it can
    use an accelerator."""

    version: str | None = None
    build: str = ""
    offload: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class Disk:
    """Of the folder `path`: bytes that are free, and bytes a second that were written through to it and read back (from
    memory, where the system keeps what was just written). `problem`: why that could not be measured."""

    path: str
    free: int = 0
    write_speed: float = 0.0
    problem: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` finds. `devices`: those that torch can use beside the processor; `instructions`: of the processor,
    the ones that matter; `kernel_cache`: the folder for compiled kernels, or why there is none; `problems`: what is
    broken, each with what to do."""

    version: str
    python: str
    system: str
    cores: int
    memory: int
    instructions: tuple[str, ...]
    precision: str
    devices: tuple[str, ...]
    llama_cpp: LlamaCpp
    disk: Disk
    kernel_cache: str
    extras: tuple[Extra, ...]
    problems: tuple[str, ...]


def doctor(folder: Path | str = ".") -> Diagnosis:
    """Look at this installation and this machine; `folder`: whose disk is measured, with a file of 64 MB that is
    removed.

    >>> ws.doctor().extras[0].works
    True
    """
    extras = check_extras()
    llama_cpp, disk, (cache, cache_problem) = _llama_cpp(), _disk(Path(folder)), _kernel_cache()
    problems = [
        f"{name} is {what}; run: {extra.install}"
        for extra in extras
        for name, what in extra.missing.items()
        if not extra.name or what != "not installed"  # an extra that nobody asked for is no fault
    ]
    problems += [problem for problem in (llama_cpp.problem, disk.problem, cache_problem) if problem]
    return Diagnosis(
        __version__,
        platform.python_version(),
        f"{platform.system()} {platform.release()} {platform.machine()}",
        available_cores(),
        available_memory(),
        _instructions(),
        fast_precision(),
        _devices(),
        llama_cpp,
        disk,
        cache,
        extras,
        tuple(dict.fromkeys(problems)),
    )


def _instructions() -> tuple[str, ...]:
    flags = processor_flags()
    return tuple(name for name in _INSTRUCTIONS if name in flags)


def _devices() -> tuple[str, ...]:
    try:
        import torch
    except ImportError:
        return ()
    if not torch.accelerator.is_available():
        return ()
    kind = str(torch.accelerator.current_accelerator())
    if not kind.startswith("cuda"):
        return (kind,)
    found = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        found.append(
            f"cuda:{number} {torch.cuda.get_device_name(number)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        )
    return tuple(found)


def _llama_cpp() -> LlamaCpp:
    """In a process of its own: a build for another processor ends it."""
    from importlib import metadata

    try:
        version = metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:
        return LlamaCpp()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LLAMA_CPP], capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        return LlamaCpp(version, problem=f"llama-cpp-python {version} does not answer; install it again")
    if done.returncode == -signal.SIGILL:
        return LlamaCpp(
            version,
            problem=f"llama-cpp-python {version} was built for a processor with other instructions than this one has; "
            "build it here: pip install --force-reinstall --no-binary :all: llama-cpp-python",
        )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        return LlamaCpp(version, problem=f"llama-cpp-python {version} cannot be loaded: {last}")
    build, offload = done.stdout.strip().splitlines()[-2:]
    return LlamaCpp(version, build, offload == "True")


def _disk(folder: Path) -> Disk:
    content = os.urandom(1 << 20) * (_PROBE >> 20)
    try:
        state = os.statvfs(folder) if hasattr(os, "statvfs") else None
        free = state.f_bavail * state.f_frsize if state else 0
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".weightsmith-doctor-") as file:
            started = time.perf_counter()
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            written = time.perf_counter() - started
    except OSError as error:
        return Disk(str(folder), problem=f"{folder}: cannot be written: {error.strerror}; work in another folder")
    return Disk(str(folder), free, _PROBE / written)


def _kernel_cache() -> tuple[str, str | None]:
    """(the folder, or what is said instead of it; a problem)."""
    try:
        cache = user_cache()
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache):
            return str(cache), None
    except (OSError, RuntimeError) as error:
        problem = (
            f"compiled kernels cannot be kept ({error}), so every command compiles them again; set XDG_CACHE_HOME to a "
            "folder that can be written"
        )
        return "none", problem
