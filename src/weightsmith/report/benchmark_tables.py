"""Benchmarks as Markdown: models side by side with what differs by more than chance, and each model's tasks as LLM AutoEval shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from weightsmith.evaluate.benchmark_result import Benchmark, ModelResult
from weightsmith.evaluate.compare import Comparison
from weightsmith.evaluate.suite import Entry, Part
from weightsmith.evaluate.values import Value
from weightsmith.report.markdown_table import markdown_table

Place = Entry | Part | None  # None: the average of the suite


@dataclass(frozen=True)
class BenchmarkTables:
    """A benchmark as plain values, for a report: `scores` and `differences` begin with their headings; `bars`: for each percentage
    its name and, per model, value and standard error."""

    suite: str
    about: str
    scores: list[list[str]]
    differences: list[list[str]]
    models: list[str]
    bars: list[tuple[str, list[tuple[float, float | None]]]]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BenchmarkTables:
        """The inverse of `asdict`, after a way through JSON."""
        bars = [(name, [(height, error) for height, error in found]) for name, found in value["bars"]]
        return cls(**{**value, "bars": bars})


def tables_of(benchmark: Benchmark) -> BenchmarkTables:
    entries = [entry for entry in benchmark.suite.entries if benchmark.models[0].values[entry].averages]
    bars = [
        (entry.name, [(model.values[entry].value, model.values[entry].error) for model in benchmark.models])
        for entry in entries
    ]
    return BenchmarkTables(
        benchmark.suite.name, f"{benchmark.suite.about}. {note(benchmark)}", score_rows(benchmark), difference_rows(benchmark),
        [model.label for model in benchmark.models], bars,
    )  # fmt: skip


def side_by_side(benchmark: Benchmark) -> str:
    """One row per task, part and average, one column per model: value ± standard error."""
    return markdown_table(score_rows(benchmark))


def differences(benchmark: Benchmark) -> str:
    """What is better or worse than base and best parent, per part and on average; empty for a single model."""
    rows = difference_rows(benchmark)
    return markdown_table(rows, left=3) if rows else ""


def score_rows(benchmark: Benchmark) -> list[list[str]]:
    rows = [["", *(model.label for model in benchmark.models)]]
    for place in places(benchmark, tasks=True):
        rows.append([_name(benchmark, place), *(_cell(benchmark, model, place) for model in benchmark.models)])
    return rows


def difference_rows(benchmark: Benchmark) -> list[list[str]]:
    rows = [["model", "on", "against", "difference", "95 % interval", "p", "verdict"]]
    for model in benchmark.models:
        for place in places(benchmark, tasks=False):
            for found, role in comparisons(benchmark, model.label, place):
                rows.append([
                    model.label, _name(benchmark, place), found.other if found.other == role else f"{found.other} ({role})", f"{found.difference:+.2f}",
                    f"{found.low:+.2f} to {found.high:+.2f}", f"{found.p:.3f}", found.verdict,
                ])  # fmt: skip
    return rows if len(rows) > 1 else []


def comparisons(benchmark: Benchmark, label: str, place: Place) -> list[tuple[Comparison, str]]:
    """Against the base, and, for what is no parent, the parent that is best there."""
    found = []
    if benchmark.base and label != benchmark.base:
        found.append((benchmark.compare(label, benchmark.base, place), "base"))
        parent = benchmark.best_parent(place)
        if parent and label not in benchmark.parents:
            found.append((benchmark.compare(label, parent, place), "best parent"))
    return found


def places(benchmark: Benchmark, *, tasks: bool) -> list[Place]:
    """Tasks (on request), parts, and the average, each only where it says something new."""
    found: list[Place] = []
    for part in benchmark.suite.parts:
        if tasks and len(part.tasks) > 1:
            found += part.tasks
        if len(part.tasks) == 1 or benchmark.models[0].of_part(part) is not None:
            found.append(part)
    averaged = [part for part in benchmark.suite.parts if benchmark.models[0].of_part(part) is not None]
    return [*found, None] if len(averaged) > 1 else found


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
    asked = sum(count for count, _ in benchmark.questions.values())
    there = sum(count for _, count in benchmark.questions.values())
    text = (
        f"{asked} questions"
        + (f" of {there}" if asked != there else "")
        + ", the same for all models; ± is one standard error."
    )
    if len(benchmark.models) > 1:
        text += (
            " Better and worse: less than 5 % of chance (McNemar's test where answers are right or wrong, else a paired bootstrap); of "
            "twenty such lines one is wrong."
        )
    return text


def _name(benchmark: Benchmark, place: Place) -> str:
    if isinstance(place, Part) and len(place.tasks) == 1:
        return place.name
    if isinstance(place, Part) and any(isinstance(found, Entry) for found in places(benchmark, tasks=True)):
        return f"{place.name} (average)" if len(place.tasks) > 1 else place.name
    return "average" if place is None else place.name


def _cell(benchmark: Benchmark, model: ModelResult, place: Place) -> str:
    if isinstance(place, Entry):
        return show_value(model.values[place])
    if place is None:
        return _average(model.average(benchmark.suite))
    if len(place.tasks) == 1:
        return show_value(model.values[place.tasks[0]])
    errors = [value.error for entry in place.tasks if (value := model.values[entry]).averages]
    text = _average(model.of_part(place))
    if all(error is not None for error in errors):
        text += f" ± {sum(error**2 for error in errors if error is not None) ** 0.5 / len(errors):.2f}"
    return text


def _average(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def show_value(value: Value) -> str:
    """`31.10 ± 2.91`"""
    return f"{value.value:.2f}" + (f" ± {value.error:.2f}" if value.error is not None else "")
