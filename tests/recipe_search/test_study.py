"""Samplers on a score that is known, stored and read again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from weightsmith.files.inputs.yaml_file import parse_yaml
from weightsmith.recipe_search.default_recipes import default_recipes
from weightsmith.recipe_search.search_file import SearchFile
from weightsmith.recipe_search.space import find_spaces
from weightsmith.recipe_search.trials.run_trial import TrialResult
from weightsmith.recipe_search.trials.study import Study
from weightsmith.recipe_search.trials.trial import Trial

TEXT = """
merge_method: task_arithmetic
base_model: base
models:
  - {model: one, parameters: {weight: {uniform: [0, 10]}}}
  - {model: two, parameters: {weight: {uniform: [0, 10]}}}
"""


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory, where that can be: a database waits for the disk at each of its commits."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@dataclass
class Known:
    """Right by so much; there is nothing to ask."""

    name: str = "known"
    weight: float = 1.0
    units: int = 2
    metric: str = "acc"
    factor: float | None = 1.0
    higher_is_better: bool = True

    def ask(self, backend: Any, numbers: Any) -> Any:
        raise NotImplementedError


def searched(folder: Path, sampler: str, trials: int, text: str = TEXT, stops: bool = False) -> list[Trial]:
    """The best is at weights (2, 1). The second question is an easy one, and with `stops` the only one that a candidate
    is asked that is behind in it."""
    recipe = parse_yaml(Path("s.yml"), text)
    methods = ["task_arithmetic", "ties"] if "ties" in text else ["task_arithmetic"]
    search_tree = {"recipe": recipe.tree, "objective": [{"questions": "q.jsonl"}], "sampler": sampler, "seed": 3}
    spaces = find_spaces(recipe)
    folder.mkdir(exist_ok=True)
    study = Study(
        folder,
        SearchFile.model_validate(search_tree),
        recipe.tree,
        spaces,
        default_recipes(spaces, recipe.tree, methods),
        parallel=False,
        depends_on={},
    )
    while len(study.trials) < trials:
        asked_trial = study.ask()
        if asked_trial is None:
            break
        one, two = (model["parameters"]["weight"] for model in asked_trial.tree["models"])
        score = -((one - 2) ** 2) - (two - 1) ** 2
        answers = {0: (score, 1.0), 1: (score + 100, 1.0)}
        behind = stops and study.best is not None and score + 50 < (study.best.score or 0.0)
        answers = {1: answers[1]} if behind else answers
        study.tell(asked_trial, TrialResult(answers=(answers,), pruned=behind), [Known()])
    return study.trials


def test_cmaes_begins_at_the_best_default(tmp_path: Path) -> None:
    tried = searched(tmp_path / "a", "cmaes", 9)
    first = [[*trial.params.values()] for trial in tried if not trial.default]
    assert np.abs(np.mean(first, axis=0) - 1).max() < 1.7  # at (1, 1), not at (5, 5)


@pytest.mark.parametrize("sampler", ["cmaes", "tpe"])
def test_it_finds_what_chance_does_not(tmp_path: Path, sampler: str) -> None:
    score = {name: max(t.score or 0.0 for t in searched(tmp_path / name, name, 30)) for name in (sampler, "random")}
    assert score[sampler] > score["random"] and score[sampler] > 50 - 0.3


def test_cmaes_learns_from_candidates_that_were_stopped(tmp_path: Path) -> None:
    tried = searched(tmp_path / "a", "cmaes", 50, stops=True)
    assert sum(trial.state == "pruned" for trial in tried) > 30
    weights = [[model["parameters"]["weight"] for model in trial.tree["models"]] for trial in tried[30:]]
    assert np.square(np.subtract(weights, [2, 1])).sum(1).mean() < 1  # it stays at 3.6 where they are left out


def test_cmaes_moves_what_only_some_methods_have(tmp_path: Path) -> None:
    density = "density: {uniform: [0.1, 1.0]}, weight"
    text = TEXT.replace("task_arithmetic", "{choice: [task_arithmetic, ties]}").replace("weight", density)
    tried = searched(tmp_path / "a", "cmaes", 60, text)
    assert {("one.density" in t.params) == (t.params["merge_method"] == "ties") for t in tried} == {True}
    late = [trial.params["one.density"] for trial in tried[40:] if "one.density" in trial.params]
    assert len(late) > 4 and np.std(late) < 0.15  # drawn at random, it would be 0.26


def test_a_grid_tries_no_recipe_twice(tmp_path: Path) -> None:
    """Densities are nothing to task arithmetic, and one of the defaults is a point of the grid."""
    spaces = "density: {choice: [0.5, 1.0]}, weight: {choice: [0.5, 2, 3]}"
    text = TEXT.replace("task_arithmetic", "{choice: [task_arithmetic, ties]}").replace(
        "weight: {uniform: [0, 10]}", spaces
    )
    tried = searched(tmp_path / "a", "grid", 100, text)
    recipes = [str(trial.tree) for trial in tried]
    assert len(recipes) == 9 + 9 * 4 == len(set(recipes))
    assert [trial.number for trial in tried] == list(range(len(tried)))
    searched(tmp_path / "b", "grid", 20, text)
    assert searched(tmp_path / "b", "grid", 100, text) == tried


def test_the_number_of_a_lost_candidate_is_given_again(tmp_path: Path) -> None:
    """Of two that were tried at once, the second came to an end before the search was killed."""
    recipe = parse_yaml(Path("s.yml"), TEXT)
    search = SearchFile.model_validate({"recipe": recipe.tree, "objective": [{"questions": "q.jsonl"}]})
    spaces = find_spaces(recipe)
    defaults = default_recipes(spaces, recipe.tree, ["task_arithmetic"])

    def opened() -> Study:
        return Study(tmp_path, search, recipe.tree, spaces, defaults, parallel=True, depends_on={})

    killed = opened()
    _, second = killed.ask(), killed.ask()
    assert second
    killed.tell(second, TrialResult(answers=({0: (0.0, 1.0)},)), [Known()])
    study = opened()
    tried = [study.ask() for _ in range(len(defaults))]
    assert [one and one.number for one in tried] == [0, *range(2, len(defaults) + 1)]
    assert {one.default for one in (second, *tried) if one} == {None, *(default.name for default in defaults)}


def test_a_study_is_continued_as_if_it_had_not_ended(tmp_path: Path) -> None:
    whole = searched(tmp_path / "whole", "cmaes", 20)
    searched(tmp_path / "parts", "cmaes", 7)
    assert searched(tmp_path / "parts", "cmaes", 20) == whole
