"""What a benchmark leaves in its folder: tables, CSV, lm-evaluation-harness's JSON, and the section of a model card."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from weightsmith import __version__
from weightsmith.evaluation.results import Benchmark, ModelResult
from weightsmith.files.write_whole import write_whole
from weightsmith.report.benchmark_tables import autoeval_tables, comparisons, differences, note, side_by_side


def write_benchmarks(benchmarks: Sequence[Benchmark], out: Path) -> list[Path]:
    """`benchmark.md`, `benchmark.csv`, and for each model MODEL/results_SUITE.json, samples, tables and
    model-index.yml. Each file appears only when it is whole."""
    written = [
        write_whole(out / "benchmark.md", _page(benchmarks)),
        write_whole(out / "benchmark.csv", _csv(benchmarks)),
    ]
    for number, first in enumerate(benchmarks[0].models):
        folder = out / safe_name(first.label)
        folder.mkdir(exist_ok=True)
        for benchmark in benchmarks:
            model, suite = benchmark.models[number], benchmark.suite.name
            written.append(write_whole(folder / f"results_{suite}.json", _results_json(benchmark, model)))
            for task, samples in model.harness["samples"].items():
                lines = "".join(json.dumps(sample, default=_plain, ensure_ascii=False) + "\n" for sample in samples)
                written.append(write_whole(folder / f"samples_{suite}_{safe_name(task)}.jsonl", lines))
            written.append(write_whole(folder / f"{suite}.md", autoeval_tables(benchmark, model)))
        written.append(write_whole(folder / "model-index.yml", model_index(benchmarks, first.label)))
    return written


def model_index(benchmarks: Sequence[Benchmark], label: str) -> str:
    """The `model-index` of a model card's YAML head
    (https://github.com/huggingface/hub-docs/blob/main/modelcard.md)."""
    results = []
    for benchmark in benchmarks:
        model = benchmark.model(label)
        for entry in benchmark.suite.entries:
            value = model.values[entry]
            config = model.harness["configs"].get(entry.name) or model.harness["configs"].get(entry.task) or {}
            shots = model.harness["n-shot"].get(entry.name, model.harness["n-shot"].get(entry.task, 0))
            dataset: dict[str, Any] = {
                "name": f"{entry.name} ({shots}-shot)",
                "type": config.get("dataset_path", entry.task),
            }
            if config.get("dataset_name"):
                dataset["config"] = config["dataset_name"]
            if split := config.get("test_split") or config.get("validation_split"):
                dataset["split"] = split
            metric = {
                "type": value.metric,
                "value": round(value.value, 2),
                "name": f"{value.metric} ({benchmark.suite.name})",
            }
            results.append(
                {
                    "task": {"type": "text-generation", "name": "Text Generation"},
                    "dataset": dataset,
                    "metrics": [metric],
                }
            )
    text = io.StringIO()
    writer = YAML()
    writer.width = 4096
    writer.dump({"model-index": [{"name": label, "results": results}]}, text)
    return text.getvalue()


def safe_name(label: str) -> str:
    """A label as a file name: nothing in it leaves the folder."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", label).strip(".") or "model"


def _page(benchmarks: Sequence[Benchmark]) -> str:
    text = []
    for benchmark in benchmarks:
        text += [
            f"## {benchmark.suite.name}",
            "",
            f"{benchmark.suite.about}. {note(benchmark)}",
            "",
            side_by_side(benchmark),
            "",
        ]
        if table := differences(benchmark):
            text += [table, ""]
    return "\n".join(text)


def _csv(benchmarks: Sequence[Benchmark]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(
        [
            "suite",
            "part",
            "task",
            "model",
            "metric",
            "filter",
            "value",
            "stderr",
            "questions",
            "against_base",
            "p_base",
            "against_best_parent",
            "p_best_parent",
            "best_parent",
        ]
    )
    for benchmark in benchmarks:
        for part in benchmark.suite.parts:
            for entry in part.tasks:
                for model in benchmark.models:
                    value = model.values[entry]
                    comparison_of_role = {
                        role: comparison for comparison, role in comparisons(benchmark, model.label, entry)
                    }
                    base, parent = comparison_of_role.get("base"), comparison_of_role.get("best parent")
                    rows.writerow(
                        [
                            benchmark.suite.name,
                            part.name,
                            entry.name,
                            model.label,
                            value.metric,
                            value.filter,
                            value.value,
                            value.error,
                            value.count,
                            base.difference if base else "",
                            base.p if base else "",
                            parent.difference if parent else "",
                            parent.p if parent else "",
                            parent.other if parent else "",
                        ]
                    )
    return text.getvalue()


def _results_json(benchmark: Benchmark, model: ModelResult) -> str:
    """With the keys that lm-evaluation-harness writes, samples in their own files."""
    settings = benchmark.settings
    content = {key: value for key, value in model.harness.items() if key != "samples"}
    content["config"] = {
        "model": "weightsmith",
        "model_args": {"pretrained": model.reference, "dtype": model.precision, "backend": model.backend},
        "batch_size": None,
        "device": "cpu",
        "limit": settings.limit,
        "bootstrap_iters": 1000,
        "random_seed": 0,
        "numpy_seed": settings.seed,
        "torch_seed": settings.seed,
        "fewshot_seed": settings.seed,
    }
    content |= {"model_name": model.label, "model_source": "weightsmith", "weightsmith_version": __version__}
    content |= {"truncated_requests": model.truncated, "total_evaluation_time_seconds": f"{model.seconds:.1f}"}
    return json.dumps(content, indent=2, default=_plain, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    from lm_eval.utils import handle_non_serializable

    return handle_non_serializable(value)
