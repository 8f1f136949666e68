"""Suites of benchmarks, as data: which tasks, which metric of each, and how they are averaged (`suites/*.yaml`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from weightsmith.errors import EvaluationError
from weightsmith.files.find_path import is_file_name, path_beside
from weightsmith.files.inputs.yaml_file import StrictModel, read_yaml
from weightsmith.files.suggestions import nearest

SUITES = Path(__file__).parents[1] / "suites"
PREFERRED = ("acc_norm", "acc", "exact_match")  # where nobody says which metric counts


class SuiteEntry(StrictModel):
    """One number of a suite. `task`: a task or group of lm-evaluation-harness, or instead `questions`, a JSONL file
    with prompt and target, or `text`, a text file for perplexity. `metric`: the first of these that a task has;
    `filter`: of the answers, where a task has several; `choices`: only questions with as many answers, under the
    name `alias`; `baseline`: the value of guessing, which becomes 0 (`choices`: one divided by the number of answers);
    `scale`: of the value, to a percentage."""

    task: str = ""
    questions: str | None = None
    text: str | None = None
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

    @model_validator(mode="after")
    def _is_one_task(self) -> SuiteEntry:
        if sum(map(bool, (self.task, self.questions, self.text))) != 1:
            raise ValueError("an entry has exactly one of 'task', 'questions' and 'text'")
        harness_only = {"filter", "fewshot", "choices", "baseline", "scale"} & self.model_fields_set
        if not self.task and harness_only:
            raise ValueError(f"{', '.join(sorted(harness_only))!r} belongs to a 'task'")
        known = ("perplexity",) if self.text else ("exact_match", "perplexity")
        if not self.task and (len(self.metric) > 1 or not set(self.metric) <= set(known)):
            raise ValueError(f"the metric of {'a text' if self.text else 'questions'} is {' or '.join(known)}")
        return self

    @property
    def name(self) -> str:
        return self.alias or self.task or Path(self.questions or self.text or "").stem


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

    @field_validator("name")
    @classmethod
    def _is_file_name(cls, name: str) -> str:
        if not is_file_name(name):
            raise ValueError("is part of the names of files, and has a character that those cannot have")
        return name

    @property
    def entries(self) -> Iterator[SuiteEntry]:
        for part in self.parts:
            yield from part.tasks


def suite_names() -> list[str]:
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def load_suite(name: str) -> Suite:
    """A suite by its name, or from your own YAML file; question files and texts are relative to that file, or to the
    working directory. Raises EvaluationError, RecipeError."""
    path = SUITES / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    elif name not in suite_names():
        raise EvaluationError(f"unknown suite {name!r}{nearest(name, suite_names())}")
    suite = read_yaml(path).validate(Suite)
    parts = [
        part.model_copy(update={"tasks": tuple(_resolved(e, path.parent) for e in part.tasks)}) for part in suite.parts
    ]
    return suite.model_copy(update={"parts": tuple(parts)})


def _resolved(entry: SuiteEntry, folder: Path) -> SuiteEntry:
    files = {key: str(path_beside(name, folder)) for key in ("questions", "text") if (name := getattr(entry, key))}
    return entry.model_copy(update=files)


def suite_of(entries: Sequence[SuiteEntry]) -> Suite:
    """Tasks that were named one by one, each a part of its own. Raises EvaluationError where two have one name."""
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        raise EvaluationError(
            f"two tasks are called {max(names, key=names.count)!r}; rename one: the table has one row each"
        )
    return Suite(
        name="tasks",
        about="Tasks named one by one",
        source="",
        parts=tuple(Part(name=entry.name, tasks=(entry,)) for entry in entries),
    )
