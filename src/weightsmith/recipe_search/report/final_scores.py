"""The winner, the defaults, the base and the fine-tunes on held-out questions, compared in pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from weightsmith.errors import SearchError
from weightsmith.evaluation.results.evaluation import Evaluation
from weightsmith.evaluation.results.paired_tests import DRAWS, LEVEL, bootstrap_p, drawn_differences, holm
from weightsmith.models.find_model import numbered
from weightsmith.recipe_search.objectives import AllAnswers, Objective, utility, value
from weightsmith.recipe_search.report.as_evaluation import as_evaluation
from weightsmith.recipe_search.space import last_name
from weightsmith.recipe_search.trials.kept_answers import KeptAnswers
from weightsmith.recipe_search.trials.run_trial import Setup, TrialJob, run_trial
from weightsmith.recipe_search.trials.trial import Trial, by_score

WINNER, DEFAULT = "winner", "best default"
ANSWERS = "answers.sqlite"


@dataclass(frozen=True)
class ScoredCandidate:
    """`seen` and `held_out`: answers, one dict per objective; `score`s are those of the search."""

    label: str
    tree: dict[str, Any]
    seen: AllAnswers
    held_out: AllAnswers
    seen_score: float
    score: float

    def shown(self, objectives: Sequence[Objective]) -> list[str]:
        """`seen / held out` of each objective, and last of the score."""
        cells = [
            f"{value(objective, seen):.2f} / {value(objective, held_out):.2f}"
            for objective, seen, held_out in zip(objectives, self.seen, self.held_out, strict=True)
        ]
        return [*cells, f"{self.seen_score:.4f} / {self.score:.4f}"]


@dataclass(frozen=True)
class Gain:
    """What the winner gains over another on what was held out: the difference of scores, its 95 % interval, and how
    often chance does as much; `p_holm`: p corrected for all gains together (Holm)."""

    other: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float = 1.0

    @property
    def verdict(self) -> str:
        if self.p_holm >= LEVEL:
            return "within noise"
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True)
class FinalScores:
    """The winner first, then the default recipes by what the search saw of them, base and fine-tunes."""

    candidates: tuple[ScoredCandidate, ...]
    gains: tuple[Gain, ...]

    def held_out(self, objectives: Sequence[Objective]) -> Evaluation:
        """What was held out as an evaluation: each candidate against the winner, on each objective and on average."""
        answers = {candidate.label: candidate.held_out for candidate in self.candidates}
        return as_evaluation(objectives, answers, "held out", "Questions that the search has not seen")

    @property
    def within_noise(self) -> bool:
        """Whether the gain over the best default recipe may be chance."""
        return any(gain.other.startswith(DEFAULT) and gain.p_holm >= LEVEL for gain in self.gains)


def final_scores(
    setup: Setup,
    objectives: Sequence[Objective],
    trials: Sequence[Trial],
    best: Trial,
    recipe: Mapping[str, Any],
    models_digest: str,
    log: Callable[[str], None],
) -> FinalScores:
    """Answers that an interrupted search has kept are not asked for again; `models_digest`: of the weights of all
    models, which they depend on. Raises SearchError where the winner cannot be scored; another that cannot be is left
    out."""
    winner = f"{WINNER} ({best.default}, a default)" if best.default else WINNER
    to_score: list[tuple[str, dict[str, Any], AllAnswers | None]] = [(winner, best.tree, best.answers)]
    defaults = [trial for trial in by_score(trials) if trial.default and trial.number != best.number]
    for rank, trial in enumerate(defaults):
        role = "default" if rank or best.default else DEFAULT
        to_score.append((f"{role}: {trial.default}", trial.tree, trial.answers))
    for label, reference in models_of(recipe):
        to_score.append((label, {"merge_method": "passthrough", "models": [{"model": reference}]}, None))
    scored = []
    with KeptAnswers(setup.scratch / ANSWERS, {"models": models_digest}) as kept:
        for label, tree, seen in to_score:
            log(f"held out: {label}")
            try:
                unseen = _ask(kept, setup, label, tree, held_out=True)
                seen = seen or _ask(kept, setup, label, tree, held_out=False)
            except SearchError as error:
                if label == winner:
                    raise
                log(f"not scored: {error}")  # one of several models to choose from may be broken
                continue
            scored.append(
                ScoredCandidate(label, tree, seen, unseen, utility(objectives, seen), utility(objectives, unseen))
            )
    return FinalScores(tuple(scored), tuple(_gains(objectives, scored)))


def _gains(objectives: Sequence[Objective], scored: Sequence[ScoredCandidate]) -> list[Gain]:
    gains = [gain(objectives, scored[0], other) for other in scored[1:]]
    corrected = holm([each.p for each in gains])
    return [replace(each, p_holm=p) for each, p in zip(gains, corrected, strict=True)]


def _ask(kept: KeptAnswers, setup: Setup, label: str, tree: dict[str, Any], *, held_out: bool) -> AllAnswers:
    def run() -> AllAnswers:
        result = run_trial(setup, TrialJob(tree, held_out=held_out, race=False))
        if result.error:
            raise SearchError(f"{label}: {result.error}")
        return result.answers

    return kept.ask({"recipe": tree, "held_out": held_out}, run)


def models_of(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
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
    references = list(dict.fromkeys(references))
    names = ["base" if reference == base else last_name(reference) for reference in references]
    _, *labels = numbered([WINNER, *names])
    return list(zip(labels, references, strict=True))


def gain(objectives: Sequence[Objective], ours: ScoredCandidate, other: ScoredCandidate) -> Gain:
    """Questions are drawn anew within each objective, the same for both (stratified paired bootstrap)."""
    random, draws = np.random.default_rng(0), np.zeros(DRAWS)
    for objective, our_answers, their_answers in zip(objectives, ours.held_out, other.held_out, strict=True):
        sign = objective.weight * (1 if objective.higher_is_better else -1)
        draws += sign * drawn_differences(our_answers, their_answers, random)
    difference = ours.score - other.score
    low, high = np.quantile(draws, [0.025, 0.975])
    return Gain(other.label, difference, float(low), float(high), bootstrap_p(draws, sum(map(len, ours.held_out))))
