"""Optuna's samplers, each made for one candidate: with a seed of the search's and the candidate's number, it depends on
what was found so far and on nothing else, so that a search that was killed resumes as if it had not been."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from weightsmith.recipe_search.search_file import SearchFile
from weightsmith.recipe_search.space import Space
from weightsmith.recipe_search.trials.trial import Trial, by_score


def sampler_of(
    search: SearchFile, spaces: Sequence[Space], number: int, trials: Sequence[Trial], *, parallel: bool, first: bool
) -> Any:
    """The sampler for candidate `number`, after `trials`; `first`: it is one of the default recipes; `parallel`: others
    are being tried."""
    import optuna

    seed, samplers = search.seed * 1_000_003 + number, optuna.samplers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if search.sampler == "grid":
            return samplers.GridSampler({space.name: space.grid() for space in spaces}, seed=search.seed)
        if search.sampler == "tpe":
            return samplers.TPESampler(
                seed=seed, multivariate=True, group=True, constant_liar=parallel, n_startup_trials=10
            )
        if search.sampler == "nsga2":
            return samplers.NSGAIISampler(seed=seed, population_size=16)
        if search.sampler == "cmaes" and not first:  # defaults are not of its first generation
            return samplers.CmaEsSampler(
                seed=seed,
                source_trials=_start(vector(search, spaces), spaces, trials),
                consider_pruned_trials=True,
                warn_independent_sampling=False,
            )
        return samplers.RandomSampler(seed=seed)


def vector(search: SearchFile, spaces: Sequence[Space]) -> dict[str, Any]:
    """What CMA-ES moves, in the middle: every number, in every candidate, whether its method has that parameter or not.
    Other samplers have none."""
    return {
        space.name: space.stored((space.low + space.high) / 2)
        for space in spaces
        if search.sampler == "cmaes" and space.space_type != "choice"
    }


def _start(middle: Mapping[str, Any], spaces: Sequence[Space], trials: Sequence[Trial]) -> list[Any]:
    """Where CMA-ES begins: at the best default recipe, or in the middle. It starts from the best tenth of what it is
    given, so that is given ten times."""
    import optuna

    best_default = next((trial.params for trial in by_score(trials) if trial.default), {})
    numbers = {name: best_default.get(name, value) for name, value in middle.items()}
    distributions = {space.name: space.distribution for space in spaces if space.name in numbers}
    return [optuna.trial.create_trial(params=numbers, distributions=distributions, value=0.0)] * 10
