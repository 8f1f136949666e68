"""An evaluation in the two forms in which the hub takes results: `model-index` in the head of a model card, and
`.eval_results/*.yaml` for benchmarks that have a leaderboard there."""

from __future__ import annotations

from typing import Any

from weightsmith.evaluation.results.evaluation import Evaluation
from weightsmith.evaluation.results.suite_result import ModelResult, SuiteResult
from weightsmith.evaluation.tasks.suite import SuiteEntry
from weightsmith.version import __version__

# (dataset, its configuration or None for any) in lm-evaluation-harness -> (dataset, task) of the hub's eval.yaml
BENCHMARKS = {
    ("openai/gsm8k", None): ("openai/gsm8k", "gsm8k"),
    ("gsm8k", None): ("openai/gsm8k", "gsm8k"),
    ("TIGER-Lab/MMLU-Pro", None): ("TIGER-Lab/MMLU-Pro", "mmlu_pro"),
    ("Idavidrein/gpqa", "gpqa_diamond"): ("Idavidrein/gpqa", "diamond"),
}


def model_index(evaluation: Evaluation, label: str) -> list[dict[str, Any]]:
    """The `results` of a model card's model-index (https://github.com/huggingface/hub-docs/blob/main/modelcard.md): a
    number for each entry of each suite. Where only some questions were asked, the name says how many."""
    results = []
    for suite_result in evaluation.suites:
        model = suite_result.model(label)
        for entry in suite_result.suite.entries:
            value, config = model.values[entry], _config(model, entry)
            asked, there = _questions(suite_result, model, entry)
            part = "" if asked == there else f", {asked} of {there} {value.units}"
            dataset: dict[str, Any] = {
                "name": f"{entry.name} ({_shots(model, entry)}-shot{part})",
                "type": config.get("dataset_path", entry.task) if entry.task else entry.name,
            }
            if entry.task and config.get("dataset_name"):
                dataset["config"] = config["dataset_name"]
            if split := config.get("test_split") or config.get("validation_split"):
                dataset["split"] = split
            metric = {
                "type": value.metric,
                "value": round(value.value, 2),
                "name": f"{value.metric} ({suite_result.suite.name})",
            }
            results.append(
                {
                    "task": {"type": "text-generation", "name": "Text Generation"},
                    "dataset": dataset,
                    "metrics": [metric],
                }
            )
    return results


def eval_results(evaluation: Evaluation, label: str) -> dict[str, list[dict[str, Any]]]:
    """File name -> entries, of the benchmarks of which all questions were asked, as percentages
    (https://huggingface.co/docs/hub/eval-results)."""
    files: dict[str, list[dict[str, Any]]] = {}
    for suite_result in evaluation.suites:
        model = suite_result.model(label)
        for entry in suite_result.suite.entries:
            config = _config(model, entry)
            path, name = config.get("dataset_path"), config.get("dataset_name")
            benchmark = BENCHMARKS.get((path, None)) or BENCHMARKS.get((path, name))
            asked, there = _questions(suite_result, model, entry)
            value = _unscaled(model, entry)
            if not benchmark or asked != there or value is None:
                continue
            dataset, task = benchmark
            notes = f"{_shots(model, entry)}-shot, {model.values[entry].metric}"
            if model.values[entry].filter != "none":
                notes += f" ({model.values[entry].filter})"
            notes += f", prompts of lm-evaluation-harness, asked by weightsmith {__version__} in {model.precision}"
            files.setdefault(f"{dataset.rpartition('/')[2].lower()}-{entry.name}.yaml", []).append(
                {"dataset": {"id": dataset, "task_id": task}, "value": round(value, 2), "notes": notes}
            )
    return files


def _unscaled(model: ModelResult, entry: SuiteEntry) -> float | None:
    """The plain percentage; None where the suite's scale does not give it back."""
    value = model.values[entry]
    if entry.scale != 100.0 or not value.averages:
        return None
    if entry.baseline == 0:
        return value.value
    if not isinstance(entry.baseline, float) or value.value <= 0:  # all that guessing reaches is 0 there
        return None
    return 100 * entry.baseline + value.value * (1 - entry.baseline)


def _questions(result: SuiteResult, model: ModelResult, entry: SuiteEntry) -> tuple[int, int]:
    """(asked, there are)."""
    leaves = {task for task, _ in model.values[entry].answers}
    counts = [result.questions[leaf] for leaf in leaves if leaf in result.questions]
    return (sum(asked for asked, _ in counts), sum(there for _, there in counts)) if counts else (0, 0)


def _config(model: ModelResult, entry: SuiteEntry) -> dict[str, Any]:
    configs = model.harness["configs"]
    return configs.get(entry.name) or configs.get(entry.task) or {}


def _shots(model: ModelResult, entry: SuiteEntry) -> int:
    return model.harness["n-shot"].get(entry.name, model.harness["n-shot"].get(entry.task, 0))
