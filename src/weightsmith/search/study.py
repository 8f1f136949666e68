"""The study: Optuna's samplers and its storage, asked for candidates and told what became of them."""

from __future__ import annotations

import fcntl
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from weightsmith.errors import SearchError
from weightsmith.search.candidate_recipe import candidate, matters
from weightsmith.search.default_recipes import Default
from weightsmith.search.objectives import Objective, utility
from weightsmith.search.samplers import sampler_of, vector
from weightsmith.search.schema import SearchFile
from weightsmith.search.space import Space
from weightsmith.search.trial import Trial, by_score
from weightsmith.search.trial_run import TrialResult

DATABASE, LOCK = "study.db", ".lock"
PATIENCE = 10  # seconds that a database may be held by another program
_NAME = "weightsmith"


@dataclass(frozen=True)
class Asked:
    """A candidate to be tried: `tree` is its recipe, `number` its place among those that were not lost."""

    trial: Any
    number: int
    tree: dict[str, Any]
    default: str | None


class Lock:
    """Held while a search runs; another one in the same folder is refused. Raises SearchError."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / LOCK).open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            owner = self._file.read().strip() or "unknown"
            raise SearchError(
                f"{folder}: another search (process {owner}) is running there; wait for it, or give another folder"
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        self._file.close()


class Study:
    """`spaces` of the recipe `tree`; `defaults` are asked for first."""

    def __init__(
        self, folder: Path, search: SearchFile, tree: Mapping[str, Any], spaces: Sequence[Space], defaults: Sequence[Default], *,
        parallel: bool, made_of: Mapping[str, str],
    ) -> None:  # fmt: skip
        """`made_of`: what scores depend on besides the file, by name. Raises SearchError where the folder holds another search, or its
        database cannot be used."""
        optuna = _optuna()
        self._search, self._tree, self._spaces, self._parallel = search, tree, spaces, parallel
        self._defaults, self._path, self._vector = defaults, folder / DATABASE, vector(search, spaces)
        self._finished: dict[int, Trial] = {}  # by Optuna's number; a finished one does not change
        self._many = search.is_for_a_front
        with self._stored():
            storage = optuna.storages.RDBStorage(
                f"sqlite:///{self._path.absolute()}", engine_kwargs={"connect_args": {"timeout": PATIENCE}}
            )
            directions = ["maximize"] * (len(search.objective) if self._many else 1)
            self._study = optuna.create_study(
                storage=storage, study_name=_NAME, directions=directions, load_if_exists=True
            )
            self._check_same(search.model_dump(mode="json", exclude={"trials", "time"}) | dict(made_of))
            self._again = self._lost()

    @property
    def optuna(self) -> Any:
        """The study as Optuna has it."""
        return self._study

    def ask(self) -> Asked | None:
        """The next candidate; None where the grid is exhausted. Raises SearchError where the database cannot be used."""
        with self._stored():
            while (asked := self._ask()) and self._search.sampler == "grid" and self._is_known(asked):
                self._lose(asked.trial)
            return asked

    def tell(self, asked: Asked, result: TrialResult, objectives: Sequence[Objective]) -> Trial:
        """Everything of it is on the disk when this returns. Raises SearchError where it cannot be."""
        with self._stored():
            return self._tell(asked, result, objectives)

    def _is_known(self, asked: Asked) -> bool:
        """Was that recipe asked for before? Points of a grid that differ in what their method does not have are one recipe, and a
        default may be one of them."""
        before = [t for t in self._study.get_trials(deepcopy=False) if _counts(t) and t.number != asked.trial.number]
        return asked.trial.user_attrs["recipe"] in {t.user_attrs["recipe"] for t in before}

    def _ask(self) -> Asked | None:
        import optuna

        given = {t.user_attrs["number"] for t in self._study.get_trials(deepcopy=False) if _counts(t)}
        number = next(number for number in count() if number not in given)
        first = number < len(self._defaults)
        self._study.sampler = sampler_of(
            self._search, self._spaces, number, self.trials, parallel=self._parallel, first=first
        )
        if self._again:
            self._study.enqueue_trial(self._again.pop(0))
        elif first:
            default = self._defaults[number]
            self._study.enqueue_trial(self._vector | default.values, user_attrs={"default": default.name})
        elif self._search.sampler == "grid" and self._study.sampler.is_exhausted(self._study):
            return None
        trial = self._study.ask()
        values: dict[Any, Any] = {}
        idle: list[str] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", message=".*is out of range.*|.*Fixed parameter.*|.*dynamic.*")
            for space in self._spaces:
                method = str(values.get(("merge_method",), self._tree["merge_method"]))
                if matters(method, space.parameter):
                    values[space.keys] = space.ask(trial)
                elif space.name in self._vector:
                    space.ask(trial)
                    idle.append(space.name)
        tree = candidate(self._tree, values, self._spaces)
        trial.set_user_attr("number", number)
        trial.set_user_attr("recipe", json.dumps(tree))
        trial.set_user_attr("idle", idle)
        return Asked(trial, number, tree, trial.user_attrs.get("default"))

    def _tell(self, asked: Asked, result: TrialResult, objectives: Sequence[Objective]) -> Trial:
        from optuna.trial import TrialState

        self._leave_grid()
        attributes = {
            "answers": json.dumps([{str(k): v for k, v in found.items()} for found in result.answers]),
            "error": result.error, "merge_seconds": result.merge_seconds, "ask_seconds": result.ask_seconds,
            "tensors": result.tensors,
        }  # fmt: skip
        for name, value in attributes.items():
            asked.trial.set_user_attr(name, value)
        if result.error:
            self._study.tell(asked.trial, state=TrialState.FAIL)
        else:
            score = utility(objectives, result.answers)
            asked.trial.set_user_attr("score", score)
            if result.pruned:
                asked.trial.report(self._shown(score, objectives, result), sum(map(len, result.answers)))
                self._study.tell(asked.trial, state=TrialState.PRUNED)
            else:
                parts = [utility([one], [found]) for one, found in zip(objectives, result.answers, strict=True)]
                self._study.tell(asked.trial, parts if self._many else score)
        told = next(t for t in self._study.get_trials(deepcopy=False) if t.number == asked.trial.number)
        return self._finished.setdefault(told.number, _read(told))

    def _shown(self, score: float, objectives: Sequence[Objective], result: TrialResult) -> float:
        """Of a candidate that was stopped, what its sampler is told. CMA-ES ranks it among the complete ones, so it gets the best one's
        score and the difference on the questions that both have answered; TPE, among those that were stopped at the same place."""
        best = self.best if self._search.sampler == "cmaes" else None
        if best is None or best.score is None:
            return score
        common = [{k: its[k] for k in mine if k in its} for mine, its in zip(result.answers, best.answers, strict=True)]
        return best.score + score - utility(objectives, common)

    @property
    def trials(self) -> list[Trial]:
        """Those that came to an end, in the order they were asked for."""
        with self._stored():
            finished = _ended(self._study)
        for t in finished:
            if t.number not in self._finished:
                self._finished[t.number] = _read(t)
        return [self._finished[t.number] for t in finished]

    @property
    def best(self) -> Trial | None:
        """The complete one with the highest score, the first of equal ones."""
        return next(iter(by_score(self.trials)), None)

    @contextmanager
    def _stored(self) -> Iterator[None]:
        """What a database that is held, full or damaged says, through two libraries, in one sentence."""
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (StorageInternalError, SQLAlchemyError) as error:
            cause = getattr(error.__cause__, "orig", None) or getattr(error, "orig", None) or error
            raise SearchError(
                f"{self._path}: cannot be used ({_first_line(cause)}); where another program holds it, close that and go on with --resume"
            ) from error

    def _check_same(self, told: dict[str, Any]) -> None:
        """Scores of other objectives, splits or spaces are not to be held against each other."""
        before = self._study.user_attrs.get("search")
        if before is None:
            self._study.set_user_attr("search", told)
        elif before != told:
            key = next(key for key in told if before.get(key) != told[key])
            raise SearchError(
                f"{self._path}: was made with another `{key}`; set it back, or discard the search by --force"
            )

    def _lost(self) -> list[dict[str, Any]]:
        """Candidates that were being tried when the search was killed do not count. Returns what would not be asked for again by
        itself: a grid does not come back to a point."""
        from optuna.trial import TrialState

        running = self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        for trial in running:
            self._lose(trial)
        again = [trial.params for trial in running if trial.params and "default" not in trial.user_attrs]
        return again if self._search.sampler == "grid" else []

    def _lose(self, trial: Any) -> None:
        """It does not count."""
        from optuna.trial import TrialState

        self._leave_grid()
        self._study._storage.set_trial_user_attr(trial._trial_id, "lost", True)
        self._study.tell(trial.number, state=TrialState.FAIL)

    def _leave_grid(self) -> None:
        """Told of its last point, Optuna's grid would stop a loop that is not Optuna's own."""
        import optuna

        if self._search.sampler == "grid":
            self._study.sampler = optuna.samplers.RandomSampler()


def read_trials(study: Any) -> list[Trial]:
    """Of an optuna study that a search made."""
    return [_read(t) for t in _ended(study)]


def _ended(study: Any) -> list[Any]:
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and _counts(t)]


def _counts(trial: Any) -> bool:
    """Was it asked for, and not lost?"""
    return "number" in trial.user_attrs and not trial.user_attrs.get("lost")


def _read(trial: Any) -> Trial:
    told = trial.user_attrs
    answers = tuple({int(k): (v[0], v[1]) for k, v in found.items()} for found in json.loads(told.get("answers", "[]")))
    state = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(trial.state.name, "failed")
    params = {name: value for name, value in trial.params.items() if name not in told.get("idle", ())}
    return Trial(
        told["number"], state, params, json.loads(told["recipe"]), told.get("score"), answers, told.get("default"),
        told.get("error", ""), told.get("merge_seconds", 0.0), told.get("ask_seconds", 0.0),
    )  # fmt: skip


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise SearchError("a search needs `pip install 'weightsmith[search]'`") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
