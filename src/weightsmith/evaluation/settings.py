"""How the models of an evaluation are asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class EvaluationSettings:
    """How every model is asked. `limit`: the first so many questions of each task; `budget`: seconds for all models
    together, from which the number of questions follows; `memory`: bytes; `device`: one that torch knows; `chat`:
    questions of lm-evaluation-harness go through the chat template, with the `system` text and, with `multiturn`,
    examples as turns of their own."""

    limit: int | None = None
    budget: float | None = None
    fewshot: int | None = None
    data: Path | None = None
    include: tuple[Path, ...] = ()
    chat: bool = False
    system: str | None = None
    multiturn: bool = True
    precision: Precision = "auto"
    memory: int | None = None
    device: str = "cpu"
    max_length: int | None = None
    threads: int | None = None
    seed: int = 1234
