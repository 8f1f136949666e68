"""The results of a suite out of lm-evaluation-harness's, with what each question contributed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, TypeGuard

from weightsmith.errors import EvaluationError
from weightsmith.evaluation.harness.suite_tasks import SuiteTasks
from weightsmith.evaluation.results.task_result import TaskResult
from weightsmith.evaluation.tasks.suite import PREFERRED, SuiteEntry

_NO_SHARE = re.compile(
    r"(^|_)(perplexity|bits_per_byte|bleu|rouge[^_]*|chrf|ter|eqbench|percent|likelihood_diff|brier)(_|$)"
)


def read_result(entry: SuiteEntry, tasks: SuiteTasks, results: dict[str, Any]) -> TaskResult:
    """Raises EvaluationError for a metric that the task does not have."""
    leaves = tasks.leaves[entry]
    first = results["results"][leaves[0]]
    metric, chosen = _choose(entry, first)
    key, error_key = f"{metric},{chosen}", f"{metric}_stderr,{chosen}"
    group = results["results"].get(entry.task, {}) if len(leaves) > 1 else first
    if key in group:
        bare, error = group[key], group.get(error_key)
    else:
        rows = [results["results"][name] for name in leaves]
        bare = sum(row[key] for row in rows) / len(rows)
        errors = [answer for row in rows if _is_number(answer := row.get(error_key))]
        error = math.sqrt(sum(e**2 for e in errors)) / len(rows) if len(errors) == len(rows) else None
    answers = {
        (name, sample["doc_id"]): sample[metric]
        for name in leaves
        for sample in results["samples"][name]
        if sample["filter"] == chosen and metric in sample
    }
    baseline = _chance(leaves, results) if entry.baseline == "choices" else entry.baseline
    is_share = _is_share(metric) or "scale" in entry.model_fields_set
    scale = entry.scale if is_share else 1.0
    factor = scale / (1 - baseline)
    value = max(0.0, (bare - baseline) * factor) if baseline else bare * factor
    task = tasks.tasks[leaves[0]]
    aggregate = task.aggregation().get(metric)
    is_mean = aggregate is None or getattr(aggregate, "__name__", "") in ("mean", "nanmean")
    plain = is_mean and all(_is_number(answer) for answer in answers.values())
    higher = bool(task.higher_is_better().get(metric, True))
    return TaskResult(
        entry,
        metric,
        chosen,
        float(value),
        abs(float(error) * factor) if _is_number(error) else None,
        {unit: (float(answer), 1.0) for unit, answer in answers.items()} if plain else answers,
        higher,
        None if plain else aggregate,
        factor,
        higher and is_share,
    )


def _choose(entry: SuiteEntry, results: dict[str, Any]) -> tuple[str, str]:
    filters_of: dict[str, list[str]] = {}
    for key in results:
        metric, comma, filter_name = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            filters_of.setdefault(metric, []).append(filter_name)
    for metric in entry.metric or (*PREFERRED, *filters_of):
        for filter_name in filters_of.get(metric, ()):
            if entry.filter in (None, filter_name):
                return metric, filter_name
    requested = " or ".join(entry.metric) + (f" with the filter {entry.filter}" if entry.filter else "")
    raise EvaluationError(f"task {entry.task!r} has no metric {requested}; it has {', '.join(filters_of)}")


def _chance(leaves: Sequence[str], results: dict[str, Any]) -> float:
    """One divided by the number of answers, on average."""
    answer_counts = [len(sample["arguments"]) for name in leaves for sample in results["samples"][name]]
    return sum(1 / count for count in answer_counts) / len(answer_counts)


def _is_share(metric: str) -> bool:
    """Between 0 and 1; lm-evaluation-harness does not say so of a metric."""
    return metric.endswith("_acc") or not _NO_SHARE.search(metric)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float)
