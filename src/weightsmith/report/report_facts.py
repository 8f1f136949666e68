"""The content of a report, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from weightsmith.evaluation.results.score_tables import EvaluationTables
from weightsmith.inspection.movement import Movement


@dataclass(frozen=True)
class ReportFile:
    """A file that the run made. `how`: by what, and what its check found; `divergence`: from the model it was made
    of, in nats per token, where it was measured."""

    name: str
    bytes: int
    how: str
    divergence: float | None = None


@dataclass(frozen=True)
class ReportStep:
    """A stage of the run. `memory`: the most that was resident at once, in bytes; None where it was not measured."""

    name: str
    seconds: float
    memory: int | None = None


@dataclass(frozen=True)
class ReportInput:
    """A model that was merged. `known_by`: its commit, or hashes of its files; `conversion`: how it was read."""

    title: str
    known_by: str
    conversion: str


@dataclass(frozen=True)
class ReportFacts:
    """`summary`: what was merged and how, in one sentence; `movement`: how far the inputs moved from their base."""

    title: str
    recipe: str
    files: tuple[ReportFile, ...]
    steps: tuple[ReportStep, ...]
    evaluation: EvaluationTables | None
    summary: str = ""
    warnings: tuple[str, ...] = ()
    inputs: tuple[ReportInput, ...] = ()
    movement: Movement | None = None
