"""Benchmarks as Markdown: models side by side with what differs by more than chance, and each model's tasks as LLM
AutoEval shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from weightsmith.evaluation.harness.values import Value
from weightsmith.evaluation.paired_tests import Comparison
from weightsmith.evaluation.results import Benchmark, ModelResult
from weightsmith.evaluation.tasks.suite import Part, SuiteEntry
from weightsmith.report.markdown_table import markdown_table

Scope = SuiteEntry | Part | None  # None: the average of the suite


@dataclass(frozen=True)
class BenchmarkTables:
    """A benchmark as plain values, for a report: `scores` and `differences` begin with their headings; `bars`: for each
    percentage its name and, per model, value and standard error."""

    suite: str
    about: str
    scores: list[list[str]]
    differences: list[list[str]]
    models: list[str]
    bars: list[tuple[str, list[tuple[float, float | None]]]]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BenchmarkTables:
        """The inverse of `asdict`, after a way through JSON."""
        bars = [(name, [(height, error) for height, error in rows_found]) for name, rows_found in value["bars"]]
        return cls(**{**value, "bars": bars})


def tables_of(benchmark: Benchmark) -> BenchmarkTables:
    entries = [entry for entry in benchmark.suite.entries if benchmark.models[0].values[entry].averages]
    bars = [
        (entry.name, [(model.values[entry].value, model.values[entry].error) for model in benchmark.models])
        for entry in entries
    ]
    return BenchmarkTables(
        benchmark.suite.name,
        f"{benchmark.suite.about}. {note(benchmark)}",
        score_rows(benchmark),
        difference_rows(benchmark),
        [model.label for model in benchmark.models],
        bars,
    )


def side_by_side(benchmark: Benchmark) -> str:
    """One row per task, part and average, one column per model: value ± standard error."""
    return markdown_table(score_rows(benchmark))


def differences(benchmark: Benchmark) -> str:
    """What is better or worse than base and best parent, per part and on average; empty for a single model."""
    rows = difference_rows(benchmark)
    return markdown_table(rows, left=3) if rows else ""


def score_rows(benchmark: Benchmark) -> list[list[str]]:
    rows = [["", *(model.label for model in benchmark.models)]]
    for scope in scopes(benchmark, tasks=True):
        rows.append([_name(benchmark, scope), *(_cell(benchmark, model, scope) for model in benchmark.models)])
    return rows


def difference_rows(benchmark: Benchmark) -> list[list[str]]:
    rows = [["model", "on", "against", "difference", "95 % interval", "p", "verdict"]]
    for model in benchmark.models:
        for scope in scopes(benchmark, tasks=False):
            for rows_found, role in comparisons(benchmark, model.label, scope):
                rows.append(
                    [
                        model.label,
                        _name(benchmark, scope),
                        rows_found.other if rows_found.other == role else f"{rows_found.other} ({role})",
                        f"{rows_found.difference:+.2f}",
                        f"{rows_found.low:+.2f} to {rows_found.high:+.2f}",
                        f"{rows_found.p:.3f}",
                        rows_found.verdict,
                    ]
                )
    return rows if len(rows) > 1 else []


def comparisons(benchmark: Benchmark, label: str, scope: Scope) -> list[tuple[Comparison, str]]:
    """Against the base, and, for what is no parent, the parent that is best there."""
    rows_found = []
    if benchmark.base and label != benchmark.base:
        rows_found.append((benchmark.compare(label, benchmark.base, scope), "base"))
        parent = benchmark.best_parent(scope)
        if parent and label not in benchmark.parents:
            rows_found.append((benchmark.compare(label, parent, scope), "best parent"))
    return rows_found


def scopes(benchmark: Benchmark, *, tasks: bool) -> list[Scope]:
    """Tasks (on request), parts, and the average, each only where it says something new."""
    rows_found: list[Scope] = []
    for part in benchmark.suite.parts:
        if tasks and len(part.tasks) > 1:
            rows_found += part.tasks
        if len(part.tasks) == 1 or benchmark.models[0].of_part(part) is not None:
            rows_found.append(part)
    averaged = [part for part in benchmark.suite.parts if benchmark.models[0].of_part(part) is not None]
    return [*rows_found, None] if len(averaged) > 1 else rows_found


def autoeval_tables(benchmark: Benchmark, model: ModelResult) -> str:
    """One table per part with its average, and one of the parts, as LLM AutoEval publishes them."""
    text = []
    for part in benchmark.suite.parts:
        rows = [["Task", "Version", "Metric", "Value", "", "Stderr"]]
        for entry in part.tasks:
            value = model.values[entry]
            version = model.harness["versions"].get(entry.name, model.harness["versions"].get(entry.task, ""))
            error = [] if value.error is None else ["±", f"{value.error:.2f}"]
            rows.append([entry.name, str(version), value.metric, f"{value.value:.2f}", *(error or ["", ""])])
        text += [f"### {part.name}", "", markdown_table(rows), "", f"Average: {_average(model.of_part(part))}", ""]
    names = [part.name for part in benchmark.suite.parts]
    heads = ["Model", *names, "Average"]
    cells = [
        model.label,
        *(_average(model.of_part(part)) for part in benchmark.suite.parts),
        _average(model.average(benchmark.suite)),
    ]
    return "\n".join([*text, markdown_table([heads, cells])]) + "\n"


def note(benchmark: Benchmark) -> str:
    """How many questions, and how the words of the verdicts were found."""
    asked_questions = sum(count for count, _ in benchmark.questions.values())
    all_questions = sum(count for _, count in benchmark.questions.values())
    text = (
        f"{asked_questions} questions"
        + (f" of {all_questions}" if asked_questions != all_questions else "")
        + ", the same for all models; ± is one standard error."
    )
    if len(benchmark.models) > 1:
        text += (
            " Better and worse: p < 0.05 (McNemar's test where answers are right or wrong, else a "
            "paired bootstrap); about one such line in twenty is due to chance."
        )
    return text


def _name(benchmark: Benchmark, scope: Scope) -> str:
    if isinstance(scope, Part) and len(scope.tasks) == 1:
        return scope.name
    if isinstance(scope, Part) and any(
        isinstance(rows_found, SuiteEntry) for rows_found in scopes(benchmark, tasks=True)
    ):
        return f"{scope.name} (average)" if len(scope.tasks) > 1 else scope.name
    return "average" if scope is None else scope.name


def _cell(benchmark: Benchmark, model: ModelResult, scope: Scope) -> str:
    if isinstance(scope, SuiteEntry):
        return show_value(model.values[scope])
    if scope is None:
        return _average(model.average(benchmark.suite))
    if len(scope.tasks) == 1:
        return show_value(model.values[scope.tasks[0]])
    errors = [value.error for entry in scope.tasks if (value := model.values[entry]).averages]
    text = _average(model.of_part(scope))
    if all(error is not None for error in errors):
        text += f" ± {sum(error**2 for error in errors if error is not None) ** 0.5 / len(errors):.2f}"
    return text


def _average(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def show_value(value: Value) -> str:
    """`31.10 ± 2.91`"""
    return f"{value.value:.2f}" + (f" ± {value.error:.2f}" if value.error is not None else "")
