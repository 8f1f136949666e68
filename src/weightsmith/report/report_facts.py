"""The content of a report, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from weightsmith.evaluation.evaluate import Evaluation
from weightsmith.report.benchmark_tables import BenchmarkTables


@dataclass(frozen=True)
class ReportFacts:
    """`files` are (name, bytes, how it was made); `steps` are (what, seconds)."""

    title: str
    recipe: str
    files: tuple[tuple[str, int, str], ...]
    steps: tuple[tuple[str, float], ...]
    evaluation: Evaluation | None
    benchmarks: tuple[BenchmarkTables, ...] = ()
