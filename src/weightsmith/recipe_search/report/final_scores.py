"""The winner, the defaults, the base and the fine-tunes on held-out questions, compared in pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weightsmith.errors import SearchError
from weightsmith.evaluation.paired_tests import DRAWS, LEVEL, bootstrap_p
from weightsmith.recipe_search.objectives import Objective, utility
from weightsmith.recipe_search.report.paired_bootstrap import drawn_differences
from weightsmith.recipe_search.space import last_name
from weightsmith.recipe_search.trials.kept_answers import AllAnswers, AnswerLog
from weightsmith.recipe_search.trials.run_trial import Setup, TrialJob, run_trial
from weightsmith.recipe_search.trials.trial import Trial, by_score

DEFAULT = "best default"
ANSWERS = "held-out.jsonl"


@dataclass(frozen=True)
class ScoredCandidate:
    """`seen` and `held_out`: answers, one dict per objective; `score`s are those of the search."""

    label: str
    tree: dict[str, Any]
    seen: AllAnswers
    held_out: AllAnswers
    seen_score: float
    score: float


@dataclass(frozen=True)
class Gain:
    """Of the winner over another on what was held out: the difference of scores, its 95 % interval, and how often
    chance does as much."""

    other: str
    difference: float
    low: float
    high: float
    p: float

    @property
    def verdict(self) -> str:
        if self.p >= LEVEL:
            return "within noise"
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True)
class FinalScores:
    """The winner first, then the default recipes by what the search saw of them, base and fine-tunes."""

    candidates: tuple[ScoredCandidate, ...]
    gains: tuple[Gain, ...]

    @property
    def within_noise(self) -> bool:
        """Whether the gain over the best default recipe may be chance."""
        return any(gain.other.startswith(DEFAULT) and gain.p >= LEVEL for gain in self.gains)


def final_scores(
    setup: Setup,
    objectives: Sequence[Objective],
    trials: Sequence[Trial],
    best: Trial,
    recipe: Mapping[str, Any],
    log: Callable[[str], None],
) -> FinalScores:
    """Of models that an interrupted search has asked already, as it kept them. Raises SearchError where the winner
    cannot be scored; another that cannot be is left out."""
    winner = f"winner ({best.default}, a default)" if best.default else "winner"
    to_score: list[tuple[str, dict[str, Any], AllAnswers | None]] = [(winner, best.tree, best.answers)]
    defaults = [trial for trial in by_score(trials) if trial.default and trial.number != best.number]
    for rank, trial in enumerate(defaults):
        role = "default" if rank or best.default else DEFAULT
        to_score.append((f"{role}: {trial.default}", trial.tree, trial.answers))
    for label, reference in _models(recipe):
        to_score.append((label, {"merge_method": "passthrough", "models": [{"model": reference}]}, None))
    scored, answer_log = [], AnswerLog(setup.scratch / ANSWERS, {})
    for label, tree, seen in to_score:
        log(f"held out: {label}")
        try:
            unseen = _ask(answer_log, setup, label, tree, held_out=True)
            seen = seen or _ask(answer_log, setup, label, tree, held_out=False)
        except SearchError as error:
            if label == winner:
                raise
            log(f"not scored: {error}")  # one of several models to choose from may be broken
            continue
        scored.append(
            ScoredCandidate(label, tree, seen, unseen, utility(objectives, seen), utility(objectives, unseen))
        )
    return FinalScores(tuple(scored), tuple(gain(objectives, scored[0], other) for other in scored[1:]))


def _ask(answer_log: AnswerLog, setup: Setup, label: str, tree: dict[str, Any], *, held_out: bool) -> AllAnswers:
    def run() -> AllAnswers:
        result = run_trial(setup, TrialJob(tree, held_out=held_out, race=False))
        if result.error:
            raise SearchError(f"{label}: {result.error}")
        return result.answers

    return answer_log.ask({"recipe": tree, "held_out": held_out}, run)


def _models(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, reference) of the base and of every other model, each once."""
    base = recipe.get("base_model")
    entries = [*(recipe.get("models") or [])]
    for part in recipe.get("slices") or []:
        entries += part.get("sources") or []
    references: list[str] = []
    for reference_or_choice in (base, *(entry["model"] for entry in entries)):
        references += (
            reference_or_choice["choice"]
            if isinstance(reference_or_choice, dict)
            else [reference_or_choice]
            if reference_or_choice
            else []
        )
    return [
        ("base" if reference == base else last_name(reference), reference) for reference in dict.fromkeys(references)
    ]


def gain(objectives: Sequence[Objective], ours: ScoredCandidate, other: ScoredCandidate) -> Gain:
    """Questions are drawn anew within each objective, the same for both (stratified paired bootstrap)."""
    random, draws = np.random.default_rng(0), np.zeros(DRAWS)
    for objective, our_answers, their_answers in zip(objectives, ours.held_out, other.held_out, strict=True):
        sign = objective.weight * (1 if objective.higher_is_better else -1)
        draws += sign * drawn_differences(our_answers, their_answers, random)
    difference = ours.score - other.score
    low, high = np.quantile(draws, [0.025, 0.975])
    return Gain(other.label, difference, float(low), float(high), bootstrap_p(draws))
