"""Answers to objectives as an evaluation: the one result, with its tables and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weightsmith.evaluation.results.evaluation import Evaluation
from weightsmith.evaluation.results.suite_result import ModelResult, SuiteResult
from weightsmith.evaluation.results.task_result import result_of
from weightsmith.evaluation.settings import EvaluationSettings
from weightsmith.evaluation.task import Sample
from weightsmith.evaluation.tasks.suite import Suite, SuiteEntry, suite_of
from weightsmith.evaluation.tasks.text_task import Text
from weightsmith.recipe_search.objectives import AllAnswers, Objective


def as_evaluation(
    objectives: Sequence[Objective], answers: Mapping[str, AllAnswers], name: str, about: str
) -> Evaluation:
    """`answers`: by label, the first being what all others are compared with; `name` and `about`: of the suite that the
    objectives make."""
    entries = suite_of([SuiteEntry(task=objective.name) for objective in objectives])
    suite = entries.model_copy(update={"name": name, "about": about})
    models = tuple(_model_result(label, suite, objectives, of_model) for label, of_model in answers.items())
    first, *_ = answers
    asked = {o.name: (len(units), len(units)) for o, units in zip(objectives, answers[first], strict=True)}
    return Evaluation((SuiteResult(suite, models, asked),), EvaluationSettings(), first, ())


def _model_result(label: str, suite: Suite, objectives: Sequence[Objective], answers: AllAnswers) -> ModelResult:
    values = {}
    for entry, objective, of_task in zip(suite.entries, objectives, answers, strict=True):
        samples = [Sample(number, answer) for number, answer in of_task.items()]
        units = "windows" if isinstance(objective.task, Text) else "questions"
        values[entry] = result_of(entry, objective.task, samples, units, "")
    return ModelResult(label, "", "transformers", "", values, {}, {}, 0, 0, 0.0)
