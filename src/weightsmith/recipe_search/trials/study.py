"""The study: Optuna's samplers and its storage, which propose candidates and receive their results."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from weightsmith.errors import SearchError
from weightsmith.files.inputs.sqlite_file import open_sqlite
from weightsmith.recipe_search.candidate_recipe import candidate, matters
from weightsmith.recipe_search.default_recipes import Default
from weightsmith.recipe_search.objectives import Objective, utility
from weightsmith.recipe_search.search_file import SearchFile
from weightsmith.recipe_search.space import Space
from weightsmith.recipe_search.trials.run_trial import TrialResult
from weightsmith.recipe_search.trials.samplers import sampler_of, vector
from weightsmith.recipe_search.trials.trial import Trial, by_score

DATABASE = "study.db"
_TABLES = {  # Optuna's
    *("alembic_version", "studies", "study_directions", "study_system_attributes", "study_user_attributes"),
    *("trial_heartbeats", "trial_intermediate_values", "trial_params", "trial_system_attributes"),
    *("trial_user_attributes", "trial_values", "trials", "version_info"),
}
PATIENCE = 10  # seconds that a database may be held by another program
_NAME = "weightsmith"


@dataclass(frozen=True)
class AskedTrial:
    """A candidate to be tried: `tree` is its recipe, `number` its place among those that were not lost."""

    trial: Any
    number: int
    tree: dict[str, Any]
    default: str | None


class Study:
    """`spaces` of the recipe `tree`; `defaults` come first."""

    def __init__(
        self,
        folder: Path,
        search: SearchFile,
        tree: Mapping[str, Any],
        spaces: Sequence[Space],
        defaults: Sequence[Default],
        *,
        parallel: bool,
        depends_on: Mapping[str, str],
    ) -> None:
        """`depends_on`: what scores depend on besides the file, by name. Raises SearchError where the folder holds
        another search, or its database cannot be used."""
        optuna = _optuna()
        self._search, self._tree, self._spaces, self._parallel = search, tree, spaces, parallel
        self._defaults, self._path, self._vector = defaults, folder / DATABASE, vector(search, spaces)
        self._finished: dict[int, Trial] = {}  # by Optuna's number; a finished one does not change
        self._is_front = search.is_for_a_front
        if self._path.exists() or self._path.is_symlink():
            open_sqlite(self._path, _TABLES, error=SearchError, patience=PATIENCE).close()
        with self._stored():
            storage = optuna.storages.RDBStorage(
                f"sqlite:///{self._path.absolute()}", engine_kwargs={"connect_args": {"timeout": PATIENCE}}
            )
            directions = ["maximize"] * (len(search.objective) if self._is_front else 1)
            self._study = optuna.create_study(
                storage=storage, study_name=_NAME, directions=directions, load_if_exists=True
            )
            self._check_same(search.model_dump(mode="json", exclude={"trials", "time"}) | dict(depends_on))
            self._lost_params = self._lost()

    @property
    def optuna(self) -> Any:
        """The study as Optuna has it."""
        return self._study

    def ask(self) -> AskedTrial | None:
        """The next candidate; None where the grid is exhausted. Raises SearchError where the database cannot be
        used."""
        with self._stored():
            while (asked_trial := self._ask()) and self._search.sampler == "grid" and self._is_known(asked_trial):
                self._lose(asked_trial.trial)
            return asked_trial

    def tell(self, asked_trial: AskedTrial, result: TrialResult, objectives: Sequence[Objective]) -> Trial:
        """Everything of it is on the disk when this returns. Raises SearchError where it cannot be."""
        with self._stored():
            return self._tell(asked_trial, result, objectives)

    def _is_known(self, asked_trial: AskedTrial) -> bool:
        """Whether that recipe was drawn before. Points of a grid that differ in what their method does not have are one
        recipe, and a default may be one of them."""
        before = [
            t for t in self._study.get_trials(deepcopy=False) if _counts(t) and t.number != asked_trial.trial.number
        ]
        return asked_trial.trial.user_attrs["recipe"] in {t.user_attrs["recipe"] for t in before}

    def _ask(self) -> AskedTrial | None:
        import optuna

        used_numbers = {t.user_attrs["number"] for t in self._study.get_trials(deepcopy=False) if _counts(t)}
        number = next(number for number in count() if number not in used_numbers)
        first = number < len(self._defaults)
        self._study.sampler = sampler_of(
            self._search, self._spaces, number, self.trials, parallel=self._parallel, first=first
        )
        if self._lost_params:
            self._study.enqueue_trial(self._lost_params.pop(0))
        elif first:
            default = self._defaults[number]
            self._study.enqueue_trial(self._vector | default.values, user_attrs={"default": default.name})
        elif self._search.sampler == "grid" and self._study.sampler.is_exhausted(self._study):
            return None
        trial = self._study.ask()
        values: dict[Any, Any] = {}
        unused: list[str] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", message=".*is out of range.*|.*Fixed parameter.*|.*dynamic.*")
            for space in self._spaces:
                method = str(values.get(("merge_method",), self._tree["merge_method"]))
                if matters(method, space.parameter):
                    values[space.keys] = space.ask(trial)
                elif space.name in self._vector:
                    space.ask(trial)
                    unused.append(space.name)
        tree = candidate(self._tree, values, self._spaces)
        trial.set_user_attr("number", number)
        trial.set_user_attr("recipe", json.dumps(tree))
        trial.set_user_attr("idle", unused)
        return AskedTrial(trial, number, tree, trial.user_attrs.get("default"))

    def _tell(self, asked_trial: AskedTrial, result: TrialResult, objectives: Sequence[Objective]) -> Trial:
        from optuna.trial import TrialState

        self._leave_grid()
        attributes = {
            "answers": json.dumps(
                [{str(k): v for k, v in objective_answers.items()} for objective_answers in result.answers]
            ),
            "error": result.error,
            "merge_seconds": result.merge_seconds,
            "ask_seconds": result.ask_seconds,
            "tensors": result.tensors,
        }
        for name, value in attributes.items():
            asked_trial.trial.set_user_attr(name, value)
        if result.error:
            self._study.tell(asked_trial.trial, state=TrialState.FAIL)
        else:
            score = utility(objectives, result.answers)
            asked_trial.trial.set_user_attr("score", score)
            if result.pruned:
                asked_trial.trial.report(self._shown(score, objectives, result), sum(map(len, result.answers)))
                self._study.tell(asked_trial.trial, state=TrialState.PRUNED)
            else:
                parts = [
                    utility([objective], [objective_answers])
                    for objective, objective_answers in zip(objectives, result.answers, strict=True)
                ]
                self._study.tell(asked_trial.trial, parts if self._is_front else score)
        frozen_trial = next(t for t in self._study.get_trials(deepcopy=False) if t.number == asked_trial.trial.number)
        return self._finished.setdefault(frozen_trial.number, _read(frozen_trial))

    def _shown(self, score: float, objectives: Sequence[Objective], result: TrialResult) -> float:
        """What the sampler is told of a candidate that was stopped. CMA-ES ranks it among the complete ones, so it
        gets the best one's score and the difference on the questions that both have answered; TPE, among those that
        were stopped at the same place."""
        best = self.best if self._search.sampler == "cmaes" else None
        if best is None or best.score is None:
            return score
        common = [
            {k: best_answers[k] for k in our_answers if k in best_answers}
            for our_answers, best_answers in zip(result.answers, best.answers, strict=True)
        ]
        return best.score + score - utility(objectives, common)

    @property
    def trials(self) -> list[Trial]:
        """The finished ones, in the order they were drawn."""
        with self._stored():
            finished = _ended(self._study)
        for t in finished:
            if t.number not in self._finished:
                try:
                    self._finished[t.number] = _read(t)
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    raise SearchError(
                        f"{self._path}: candidate {t.number} is not as a search writes it ({error!r}); discard the "
                        "search with --force",
                        path=self._path,
                    ) from error
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
                f"{self._path}: cannot be used ({_first_line(cause)}); if another program holds it, close that and "
                "resume with --resume",
                path=self._path,
            ) from error

    def _check_same(self, settings: dict[str, Any]) -> None:
        """Scores of other objectives, splits or spaces must not be compared with each other."""
        before = self._study.user_attrs.get("search")
        if before is None:
            self._study.set_user_attr("search", settings)
        elif before != settings:
            known = before if isinstance(before, dict) else {}
            key = next((key for key in settings if known.get(key) != settings[key]), "search")
            raise SearchError(
                f"{self._path}: was made with another `{key}`; set it back, or discard the search with --force",
                path=self._path,
            )

    def _lost(self) -> list[dict[str, Any]]:
        """Candidates that were being tried when the search was killed do not count. Returns what would not be asked for
        again by itself: a grid does not come back to a point."""
        from optuna.trial import TrialState

        running = self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        for trial in running:
            self._lose(trial)
        lost_params = [trial.params for trial in running if trial.params and "default" not in trial.user_attrs]
        return lost_params if self._search.sampler == "grid" else []

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
    """The trials of an optuna study that a search made."""
    return [_read(t) for t in _ended(study)]


def _ended(study: Any) -> list[Any]:
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and _counts(t)]


def _counts(trial: Any) -> bool:
    """Whether it was drawn and not lost."""
    return "number" in trial.user_attrs and not trial.user_attrs.get("lost")


def _read(trial: Any) -> Trial:
    frozen_trial = trial.user_attrs
    answers = tuple(
        {int(k): (v[0], v[1]) for k, v in objective_answers.items()}
        for objective_answers in json.loads(frozen_trial.get("answers", "[]"))
    )
    state = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(trial.state.name, "failed")
    params = {name: value for name, value in trial.params.items() if name not in frozen_trial.get("idle", ())}
    return Trial(
        frozen_trial["number"],
        state,
        params,
        json.loads(frozen_trial["recipe"]),
        frozen_trial.get("score"),
        answers,
        frozen_trial.get("default"),
        frozen_trial.get("error", ""),
        frozen_trial.get("merge_seconds", 0.0),
        frozen_trial.get("ask_seconds", 0.0),
    )


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise SearchError("a search needs `pip install 'weightsmith[search]'`") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
