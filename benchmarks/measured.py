"""Commands measured as processes of their own: wall clock, processor time, highest resident set."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from weightsmith.machine import describe_machine

# A process inherits the highest resident set of the one that started it, so a small one stands between.
_LAUNCH = """
import subprocess, sys, time, resource
started = time.monotonic()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
seconds, used = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
print(code, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)
"""
# Reads the folders' weights, in chunks, and writes as much as the first of them has, with fsync.
_FLOOR = """
import os, sys
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
buffer = bytearray(1 << 20)
for number, folder in enumerate(sys.argv[2:]):
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            file = os.open(os.path.join(folder, name), os.O_RDONLY)
            while count := os.readv(file, [buffer]):
                if number == 0:
                    os.write(out, memoryview(buffer)[:count])
os.fsync(out)
"""


@dataclass(frozen=True)
class Measured:
    """Seconds of wall clock, seconds of all cores together, bytes."""

    wall: float
    cpu: float
    peak: float


def measure(command: Sequence[str], **variables: str) -> Measured:
    """`variables` of its environment. Raises SystemExit where the command fails."""
    launched = [sys.executable, "-S", "-c", _LAUNCH, *command]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"} | variables
    fields = subprocess.run(launched, env=environment, capture_output=True, text=True, check=True).stdout.split()
    if fields[0] != "0":
        raise SystemExit(f"failed: {' '.join(command)}")
    return Measured(float(fields[1]), float(fields[2]), float(fields[3]))


def floor_command(inputs: Sequence[Path], out: Path) -> list[str]:
    """What any program has to do: read each input once, write one output to the disk."""
    return [sys.executable, "-S", "-c", _FLOOR, str(out), *map(str, inputs)]


def warm(folders: Sequence[Path]) -> None:
    """Bring the files into the page cache, as far as it holds them."""
    buffer = bytearray(1 << 24)
    for folder in folders:
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def where() -> str:
    """Processor, system and versions."""
    return f"{processor()}; {describe_machine()}, mergekit {metadata.version('mergekit')}"


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "processor of unknown name"
