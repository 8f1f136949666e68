"""The content of a report, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from weightsmith.evaluation.results.score_tables import EvaluationTables


@dataclass(frozen=True)
class ReportFacts:
    """`files` are (name, bytes, how it was made); `steps` are (what, seconds)."""

    title: str
    recipe: str
    files: tuple[tuple[str, int, str], ...]
    steps: tuple[tuple[str, float], ...]
    evaluation: EvaluationTables | None
