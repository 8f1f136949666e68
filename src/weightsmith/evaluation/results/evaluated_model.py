"""What was asked: a model by names and sizes, not by where it lies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluatedModel:
    """`title`: ids of the hub or file names; `bytes`: of the files, None of a merge in memory; `content`: a digest of
    weights, configuration, tokenizer and compute precision, empty where answers are not kept; `memory`: bytes that were
    resident at most while it was asked."""

    label: str
    title: str
    bytes: int | None
    content: str
    backend: str
    precision: str
    seconds: float
    memory: int
