"""An evaluation as Markdown: models side by side with what differs by more than chance, and each model's tasks as LLM
AutoEval shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from weightsmith.evaluation.results.paired_tests import Comparison
from weightsmith.evaluation.results.suite_result import ModelResult, Scope, SuiteResult
from weightsmith.evaluation.results.task_result import TaskResult
from weightsmith.evaluation.tasks.suite import SuiteEntry
from weightsmith.files.markdown import markdown_table, markdown_text

Bars = list[tuple[str, list[tuple[float, float | None]]]]  # task, and for each model its value and standard error


@dataclass(frozen=True)
class SuiteTables:
    """`scores` and `differences` begin with their headings; `differences` is empty for a single model; `percentages`
    and `perplexities` are what a plot shows; `averages`: of each model over the parts of the suite, in percent; empty
    where nothing can be averaged."""

    suite: str
    about: str
    scores: list[list[str]]
    differences: list[list[str]]
    percentages: Bars
    perplexities: Bars
    averages: tuple[float, ...] = ()

    def to_markdown(self) -> str:
        """Both tables, without a heading."""
        parts = [markdown_table(self.scores)]
        if self.differences:
            parts.append(markdown_table(self.differences, left=3))
        return "\n\n".join(parts)


@dataclass(frozen=True)
class EvaluationTables:
    """The tables of an evaluation as plain values, which JSON can hold. `models`: labels."""

    models: list[str]
    suites: list[SuiteTables]

    @property
    def averages(self) -> Bars:
        """Of each suite that has averages."""
        return [(suite.suite, [(value, None) for value in suite.averages]) for suite in self.suites if suite.averages]

    def to_markdown(self) -> str:
        """A page: for each suite a heading, what it is, and its tables."""
        return (
            "\n\n".join(
                f"## {markdown_text(suite.suite)}\n\n{markdown_text(suite.about)}\n\n{suite.to_markdown()}"
                for suite in self.suites
            )
            + "\n"
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> EvaluationTables:
        """The inverse of `as_json`, after a way through JSON."""
        suites = [
            SuiteTables(
                **{
                    **suite,
                    "percentages": _bars(suite["percentages"]),
                    "perplexities": _bars(suite["perplexities"]),
                    "averages": tuple(suite.get("averages", ())),
                }
            )
            for suite in value["suites"]
        ]
        return cls(value["models"], suites)


def tables_of(results: Sequence[SuiteResult], comparisons: Sequence[Comparison]) -> EvaluationTables:
    """`comparisons`: of all suites, corrected for each other."""
    suites = []
    for result in results:
        first = result.models[0]
        bars: list[Bars] = []
        for shown in (
            [entry for entry in result.suite.entries if first.values[entry].averages],
            [entry for entry in result.suite.entries if first.values[entry].factor is None],
        ):
            bars.append(
                [
                    (entry.name, [(model.values[entry].value, model.values[entry].error) for model in result.models])
                    for entry in shown
                ]
            )
        about = f"{result.suite.about}. {note(result, comparisons)}"
        averages = [model.average(result.suite) for model in result.models]
        suites.append(
            SuiteTables(
                result.suite.name,
                about,
                score_rows(result),
                difference_rows(result, comparisons),
                *bars,
                averages=tuple(value for value in averages if value is not None),
            )
        )
    return EvaluationTables([model.label for model in results[0].models], suites)


def score_rows(result: SuiteResult) -> list[list[str]]:
    """One row per task, part and average, one column per model: value ± standard error."""
    rows = [["", *(model.label for model in result.models)]]
    for scope in result.scopes(tasks=True):
        rows.append([_row_name(result, scope), *(_cell(result, model, scope) for model in result.models)])
    return rows


def difference_rows(result: SuiteResult, comparisons: Sequence[Comparison]) -> list[list[str]]:
    """What is better or worse than base and best parent, per part and on average; empty for a single model."""
    rows = [["model", "on", "against", "difference", "95 % interval", "p", "p (Holm)", "verdict"]]
    for comparison in comparisons:
        if comparison.suite == result.suite.name:
            other, role = comparison.other, comparison.role
            rows.append(
                [
                    comparison.label,
                    comparison.on,
                    other if other == role else f"{other} ({role})",
                    f"{comparison.difference:+.2f}",
                    f"{comparison.low:+.2f} to {comparison.high:+.2f}",
                    show_p(comparison.p),
                    show_p(comparison.p_holm),
                    comparison.verdict,
                ]
            )
    return rows if len(rows) > 1 else []


def autoeval_tables(result: SuiteResult, model: ModelResult) -> str:
    """One table per part with its average, and one of the parts, as LLM AutoEval publishes them."""
    text = []
    for part in result.suite.parts:
        rows = [["Task", "Version", "Metric", "Value", "", "Stderr"]]
        for entry in part.tasks:
            value = model.values[entry]
            version = model.harness["versions"].get(entry.name, model.harness["versions"].get(entry.task, ""))
            error = [] if value.error is None else ["±", f"{value.error:.2f}"]
            rows.append([entry.name, str(version), value.metric, f"{value.value:.2f}", *(error or ["", ""])])
        text += [
            f"### {markdown_text(part.name)}",
            "",
            markdown_table(rows),
            "",
            f"Average: {_average(model.of_part(part))}",
            "",
        ]
    names = [part.name for part in result.suite.parts]
    heads = ["Model", *names, "Average"]
    cells = [
        model.label,
        *(_average(model.of_part(part)) for part in result.suite.parts),
        _average(model.average(result.suite)),
    ]
    return "\n".join([*text, markdown_table([heads, cells])]) + "\n"


def note(result: SuiteResult, comparisons: Sequence[Comparison]) -> str:
    """How many questions, what the numbers are, and how the words of the verdicts were found."""
    counts: dict[str, list[int]] = {}
    values = result.models[0].values
    units = {name: value.units for entry, value in values.items() for name in (entry.name, *_leaves(value))}
    for name, (asked, there) in result.questions.items():
        total = counts.setdefault(units.get(name, "questions"), [0, 0])
        total[0] += asked
        total[1] += there
    text = " and ".join(
        f"{asked} {unit}" + (f" of {there}" if asked != there else "") for unit, (asked, there) in counts.items()
    )
    text += ", the same for all models; ± is one standard error."
    if any(value.metric == "exact_match" and entry.questions for entry, value in values.items()):
        text += " Exact match: the greedy answer equals the target."
    if any(value.factor is None for value in values.values()):
        text += " Perplexity: per token of each model's own tokenizer; less is better."
    if comparisons:
        after = f" after Holm's correction for all {len(comparisons)} comparisons" if len(comparisons) > 1 else ""
        text += (
            f" Better and worse: p < 0.05{after} "
            "(p by McNemar's test where answers are right or wrong, else by a paired bootstrap; intervals are not "
            "corrected)."
        )
    if any(
        not result.can_compare(model.label, result.models[0].label, entry)
        for model in result.models
        for entry in result.suite.entries
    ):
        text += " Where tokenizers differ, perplexities are not compared."
    return text


def show_value(value: TaskResult) -> str:
    """`31.10 ± 2.91`"""
    return f"{value.value:.2f}" + (f" ± {value.error:.2f}" if value.error is not None else "")


def show_p(p: float) -> str:
    """Three decimals, or `<0.001`."""
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def _leaves(value: TaskResult) -> set[str]:
    return {task for task, _ in value.answers}


def _row_name(result: SuiteResult, scope: Scope) -> str:
    """With the metric, where it is not a share of right answers."""
    entry = scope.tasks[0] if scope and not isinstance(scope, SuiteEntry) and len(scope.tasks) == 1 else scope
    perplexity = isinstance(entry, SuiteEntry) and result.models[0].values[entry].factor is None
    return result.name_of(scope) + (" (perplexity)" if perplexity else "")


def _cell(result: SuiteResult, model: ModelResult, scope: Scope) -> str:
    if isinstance(scope, SuiteEntry):
        return show_value(model.values[scope])
    if scope is None:
        return _average(model.average(result.suite))
    if len(scope.tasks) == 1:
        return show_value(model.values[scope.tasks[0]])
    errors = [value.error for entry in scope.tasks if (value := model.values[entry]).averages]
    text = _average(model.of_part(scope))
    if all(error is not None for error in errors):
        text += f" ± {sum(error**2 for error in errors if error is not None) ** 0.5 / len(errors):.2f}"
    return text


def _average(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _bars(rows: list[Any]) -> Bars:
    return [(name, [(value, error) for value, error in values]) for name, values in rows]
