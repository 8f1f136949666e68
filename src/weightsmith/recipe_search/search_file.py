"""A search file: a recipe with spaces in it, the objectives, and how to search."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from weightsmith.errors import WeightsmithError
from weightsmith.files.inputs.yaml_file import StrictModel
from weightsmith.units import parse_time


class ObjectiveEntry(StrictModel):
    """One objective: a `task` of lm-evaluation-harness, `questions` (JSONL with prompt and target; the
    share of exact answers, or with `metric: perplexity` that of the right answers), or the `perplexity` of a text.
    `limit`: use so many questions; `weight`: in the sum that is searched for."""

    task: str | None = Field(default=None, min_length=1)
    questions: str | None = Field(default=None, min_length=1)
    perplexity: str | None = Field(default=None, min_length=1)
    metric: str | None = None
    filter: str | None = None
    fewshot: int | None = Field(default=None, ge=0)
    limit: int | None = Field(default=None, ge=2)
    direction: Literal["maximize", "minimize"] | None = None
    weight: float = Field(default=1.0, gt=0)
    name: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> ObjectiveEntry:
        if sum(x is not None for x in (self.task, self.questions, self.perplexity)) != 1:
            raise ValueError("an objective has exactly one of 'task', 'questions' and 'perplexity'")
        if (self.task is None and (self.filter or self.fewshot is not None)) or (self.metric and self.perplexity):
            raise ValueError("'metric', 'filter' and 'fewshot' belong to a 'task'")
        if self.questions and self.metric not in (None, "exact_match", "perplexity"):
            raise ValueError("the metric of questions is exact_match or perplexity")
        if self.direction == "maximize" and (self.perplexity or (self.questions and self.metric == "perplexity")):
            raise ValueError("a perplexity is to be minimized")
        if self.direction == "minimize" and self.questions and self.metric != "perplexity":
            raise ValueError("exact answers are to be maximized")
        return self


class SearchFile(StrictModel):
    """`held_out`: the share of each objective that the search never sees; `trials` or `time` end it, whichever comes
    first."""

    recipe: dict[str, Any]
    objective: list[ObjectiveEntry] = Field(min_length=1)
    sampler: Literal["grid", "random", "tpe", "cmaes", "nsga2"] = "tpe"
    trials: int | None = Field(default=None, ge=1)
    time: str | None = None
    seed: int = Field(default=0, ge=0)
    held_out: float = Field(default=0.5, gt=0, lt=1)
    prune: bool = True
    data: str | None = None
    include: list[str] = Field(default_factory=list)
    chat: bool = False

    @field_validator("objective", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value

    @field_validator("time")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parse_time(value, "time")
            except WeightsmithError as error:
                raise ValueError(str(error)) from error
        return value

    @property
    def is_for_a_front(self) -> bool:
        """Whether objectives are searched for one by one, instead of their sum."""
        return self.sampler == "nsga2" and len(self.objective) > 1

    @property
    def seconds(self) -> float | None:
        return parse_time(self.time, "time") if self.time else None
