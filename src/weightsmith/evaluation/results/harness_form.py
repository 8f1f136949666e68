"""Results of our own tasks in the form that lm-evaluation-harness gives its own, so that they are written alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weightsmith.evaluation.results.task_result import TaskResult
from weightsmith.evaluation.task import Sample


def harness_form(result: TaskResult, samples: Sequence[Sample], count: int) -> dict[str, Any]:
    """The keys of lm-evaluation-harness's results for one task of `count` units. Shares are between 0 and 1 there."""
    name, metric, factor = result.entry.name, result.metric, result.factor or 1.0
    error = "N/A" if result.error is None else result.error / factor
    rows = []
    for sample in samples:
        record = dict(sample.record)
        answer = record.pop("answer", None)
        amount, size = sample.answer
        rows.append(
            {
                "doc_id": sample.number,
                "doc": record,
                "target": record.get("target", ""),
                "arguments": [[record["prompt"], record["target"]]] if "prompt" in record else [],
                "resps": [[answer if answer is not None else -amount]],
                "filtered_resps": [answer if answer is not None else -amount],
                "filter": "none",
                "metrics": [metric],
                metric: amount if result.factor is not None else [amount, size],
            }
        )
    source = result.entry.questions or result.entry.text
    return {
        "results": {name: {"alias": name, f"{metric},none": result.value / factor, f"{metric}_stderr,none": error}},
        "samples": {name: rows},
        "configs": {name: {"task": name, "dataset_path": source, "metric_list": [{"metric": metric}]}},
        "versions": {name: 1},
        "n-shot": {name: 0},
        "higher_is_better": {name: {metric: result.higher_is_better}},
        "n-samples": {name: {"original": count, "effective": len(samples)}},
    }


def join_forms(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Both, key by key."""
    return {
        key: {**first[key], **second[key]} if key in first and key in second else first.get(key, second.get(key))
        for key in (*first, *(key for key in second if key not in first))
    }
