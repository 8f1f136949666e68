"""A pipeline file: the stages of a run, in the order they are done."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from weightsmith.evaluation.settings import Precision
from weightsmith.files.inputs.yaml_file import StrictModel

MERGED = "$merged"  # in evaluate.models: the merged folder; $q4_k_m and so on: the exported file of that type


class EvaluateStage(StrictModel):
    """`models` maps a label to a model reference, `$merged` or `$TYPE`; by default all that the run makes. `questions`
    and `texts` are files; the rest is about benchmarks, as in `weightsmith evaluate`."""

    models: dict[str, str] | None = Field(default=None, min_length=1)
    questions: list[str] = Field(default_factory=list)
    texts: list[str] = Field(default_factory=list)
    suites: list[str] = Field(default_factory=list)
    tasks: list[str] = Field(default_factory=list)
    limit: int | None = Field(default=None, ge=1)
    budget: str | None = None
    fewshot: int | None = Field(default=None, ge=0)
    data: str | None = None
    include: list[str] = Field(default_factory=list)
    base: str | None = None
    parents: list[str] | None = None
    chat: bool = False
    system: str | None = None
    precision: Precision = "auto"
    memory: str | None = None
    device: str = "cpu"


class ReportStage(StrictModel):
    """`compare`: how far the inputs moved from the base and how alike they are, for which every weight is read once
    more."""

    title: str = "Merge report"
    compare: bool = True


class Pipeline(StrictModel):
    """`merge` is a recipe, or the path of one; `export` a list of GGUF types."""

    merge: dict[str, Any] | str
    export: list[str] = Field(default_factory=list)
    evaluate: EvaluateStage | None = None
    report: ReportStage | None = None

    @field_validator("report", mode="before")
    @classmethod
    def _empty_report(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("export")
    @classmethod
    def _lower(cls, value: list[str]) -> list[str]:
        lowered = [gguf_type.lower() for gguf_type in value]
        if len(set(lowered)) < len(lowered):
            raise ValueError("a type is listed twice")
        return lowered
