"""The winner, the defaults, the base and the fine-tunes on what the search has not seen, compared in pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weightsmith.errors import SearchError
from weightsmith.evaluate.compare import DRAWS, LEVEL, bootstrap_p
from weightsmith.search.kept_answers import AllAnswers, KeptAnswers
from weightsmith.search.objectives import Objective, utility
from weightsmith.search.paired_bootstrap import drawn_differences
from weightsmith.search.space import short_name
from weightsmith.search.trial import Trial, by_score
from weightsmith.search.trial_run import Setup, TrialOrder, run_trial

DEFAULT = "best default"
KEPT = "held-out.jsonl"


@dataclass(frozen=True)
class Candidate:
    """`seen` and `held_out`: answers, one dict per objective; `score`s are those of the search."""

    label: str
    tree: dict[str, Any]
    seen: AllAnswers
    held_out: AllAnswers
    seen_score: float
    score: float


@dataclass(frozen=True)
class Gain:
    """Of the winner over another on what was held out: the difference of scores, its 95 % interval, and how often chance does as much."""

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

    candidates: tuple[Candidate, ...]
    gains: tuple[Gain, ...]

    @property
    def within_noise(self) -> bool:
        """Whether the gain over the best default recipe may be chance."""
        return any(gain.other.startswith(DEFAULT) and gain.p >= LEVEL for gain in self.gains)


def final_scores(
    setup: Setup, objectives: Sequence[Objective], trials: Sequence[Trial], best: Trial, recipe: Mapping[str, Any],
    say: Callable[[str], None],
) -> FinalScores:  # fmt: skip
    """Of models that an interrupted search has asked already, as it kept them. Raises SearchError where the winner cannot be scored;
    another that cannot be is left out."""
    winner = f"winner ({best.default}, a default)" if best.default else "winner"
    wanted: list[tuple[str, dict[str, Any], AllAnswers | None]] = [(winner, best.tree, best.answers)]
    defaults = [trial for trial in by_score(trials) if trial.default and trial.number != best.number]
    for place, trial in enumerate(defaults):
        kind = "default" if place or best.default else DEFAULT
        wanted.append((f"{kind}: {trial.default}", trial.tree, trial.answers))
    for label, reference in _models(recipe):
        wanted.append((label, {"merge_method": "passthrough", "models": [{"model": reference}]}, None))
    found, kept = [], KeptAnswers(setup.scratch / KEPT, {})
    for label, tree, seen in wanted:
        say(f"held out: {label}")
        try:
            unseen = _ask(kept, setup, label, tree, held_out=True)
            seen = seen or _ask(kept, setup, label, tree, held_out=False)
        except SearchError as error:
            if label == winner:
                raise
            say(f"not scored: {error}")  # one of several models to choose from may be broken
            continue
        found.append(Candidate(label, tree, seen, unseen, utility(objectives, seen), utility(objectives, unseen)))
    return FinalScores(tuple(found), tuple(gain(objectives, found[0], other) for other in found[1:]))


def _ask(kept: KeptAnswers, setup: Setup, label: str, tree: dict[str, Any], *, held_out: bool) -> AllAnswers:
    def run() -> AllAnswers:
        result = run_trial(setup, TrialOrder(tree, held_out=held_out, race=False))
        if result.error:
            raise SearchError(f"{label}: {result.error}")
        return result.answers

    return kept.ask({"recipe": tree, "held_out": held_out}, run)


def _models(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, reference) of the base and of every other model, each once."""
    base = recipe.get("base_model")
    entries = [*(recipe.get("models") or [])]
    for part in recipe.get("slices") or []:
        entries += part.get("sources") or []
    references: list[str] = []
    for given in (base, *(entry["model"] for entry in entries)):
        references += given["choice"] if isinstance(given, dict) else [given] if given else []
    return [
        ("base" if reference == base else short_name(reference), reference) for reference in dict.fromkeys(references)
    ]


def gain(objectives: Sequence[Objective], ours: Candidate, other: Candidate) -> Gain:
    """Questions are drawn anew within each objective, the same for both (stratified paired bootstrap)."""
    random, drawn = np.random.default_rng(0), np.zeros(DRAWS)
    for objective, mine, its in zip(objectives, ours.held_out, other.held_out, strict=True):
        sign = objective.weight * (1 if objective.higher_is_better else -1)
        drawn += sign * drawn_differences(mine, its, random)
    difference = ours.score - other.score
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Gain(other.label, difference, float(low), float(high), bootstrap_p(drawn))
