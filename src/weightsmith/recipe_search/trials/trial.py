"""A candidate that was tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weightsmith.evaluation.task import Answer
from weightsmith.recipe.recipe import Recipe


@dataclass(frozen=True)
class Trial:
    """A candidate that was tried, as it is stored. `score`: what is searched for, None without one; `state`: complete,
    pruned or failed; `answers`: one dict per objective."""

    number: int
    state: str
    params: dict[str, Any]
    tree: dict[str, Any]
    score: float | None
    answers: tuple[dict[int, Answer], ...]
    default: str | None
    error: str
    merge_seconds: float
    ask_seconds: float

    @property
    def recipe(self) -> Recipe:
        """The candidate's recipe, ready to be merged. Raises RecipeError for one that failed because of it."""
        return Recipe.from_dict(self.tree)


def by_score(trials: Sequence[Trial]) -> list[Trial]:
    """The complete ones, the highest score first, of equal ones the first."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.score is not None]
    return sorted(complete, key=lambda trial: (-(trial.score or 0.0), trial.number))
