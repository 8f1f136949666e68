"""Suites of benchmarks, as data: which tasks, which metric of each, and how they are averaged (`suites/*.yaml`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from weightsmith.errors import EvaluationError
from weightsmith.files.suggestions import nearest
from weightsmith.files.yaml_file import StrictModel, read_yaml

SUITES = Path(__file__).parents[1] / "suites"
PREFERRED = ("acc_norm", "acc", "exact_match")  # where nobody says which metric counts


class SuiteEntry(StrictModel):
    """One number of a suite. `task`: a task or group of lm-evaluation-harness; `metric`: the first of these that it
    has; `filter`: of the answers, where a task has several; `choices`: only questions with as many answers, under the
    name `alias`; `baseline`: the value of guessing, which becomes 0 (`choices`: one divided by the number of answers);
    `scale`: of the value, to a percentage."""

    task: str
    metric: tuple[str, ...] = ()
    filter: str | None = None
    fewshot: int | None = Field(default=None, ge=0)
    choices: int | None = None
    alias: str | None = None
    baseline: float | Literal["choices"] = 0.0
    scale: float = 100.0

    @field_validator("metric", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @property
    def name(self) -> str:
        return self.alias or self.task


class Part(StrictModel):
    """A benchmark: the plain average of its entries."""

    name: str
    tasks: tuple[SuiteEntry, ...] = Field(min_length=1)


class Suite(StrictModel):
    """The plain average of its parts."""

    name: str
    about: str
    source: str
    parts: tuple[Part, ...] = Field(min_length=1)

    @property
    def entries(self) -> Iterator[SuiteEntry]:
        for part in self.parts:
            yield from part.tasks


def suite_names() -> list[str]:
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def load_suite(name: str) -> Suite:
    """A suite by its name, or from your own YAML file. Raises EvaluationError, RecipeError."""
    path = SUITES / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    elif not path.is_file():
        raise EvaluationError(f"unknown suite {name!r}{nearest(name, suite_names())}")
    return read_yaml(path).validate(Suite)


def suite_of_tasks(names: Sequence[str]) -> Suite:
    """Tasks that were named one by one, each a part of its own."""
    entries = [(name.strip(), SuiteEntry(task=name.strip())) for name in names if name.strip()]
    if not entries:
        raise EvaluationError("--tasks: name at least one task")
    return Suite(
        name="tasks",
        about="Tasks named one by one",
        source="",
        parts=tuple(Part(name=name, tasks=(entry,)) for name, entry in entries),
    )
