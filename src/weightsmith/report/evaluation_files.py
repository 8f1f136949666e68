"""The files that an evaluation writes: tables, CSV, lm-evaluation-harness's JSON, and the section of a model card."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

from weightsmith.evaluation.results.evaluation import Evaluation
from weightsmith.evaluation.results.score_tables import autoeval_tables
from weightsmith.evaluation.results.suite_result import ModelResult
from weightsmith.files.inputs.yaml_file import dump_yaml
from weightsmith.files.write_whole import write_whole
from weightsmith.report.hub_results import eval_results, model_index
from weightsmith.version import __version__

TABLES, TABLE = "evaluation.md", "evaluation.csv"
MODEL_INDEX, EVAL_RESULTS = "model-index.yml", "eval_results"


def write_evaluation(evaluation: Evaluation, out: Path) -> list[Path]:
    """`evaluation.md`, `evaluation.csv`, and for each model MODEL/results_SUITE.json, samples, tables,
    model-index.yml, and eval_results/ where the hub has the benchmark. Each file appears only when it is whole."""
    out.mkdir(parents=True, exist_ok=True)
    written = [
        write_whole(out / TABLES, evaluation.to_markdown()),
        write_whole(out / TABLE, _csv(evaluation)),
    ]
    for label in evaluation.labels:
        folder = out / safe_name(label)
        folder.mkdir(exist_ok=True)
        for result in evaluation.suites:
            model, suite = result.model(label), result.suite.name
            written.append(write_whole(folder / f"results_{suite}.json", _results_json(evaluation, model)))
            for task, samples in model.harness["samples"].items():
                lines = "".join(json.dumps(sample, default=_plain, ensure_ascii=False) + "\n" for sample in samples)
                written.append(write_whole(folder / f"samples_{suite}_{safe_name(task)}.jsonl", lines))
            written.append(write_whole(folder / f"{suite}.md", autoeval_tables(result, model)))
        index = {"model-index": [{"name": label, "results": model_index(evaluation, label)}]}
        written.append(write_whole(folder / MODEL_INDEX, dump_yaml(index)))
        for name, entries in eval_results(evaluation, label).items():
            (folder / EVAL_RESULTS).mkdir(exist_ok=True)
            written.append(write_whole(folder / EVAL_RESULTS / name, dump_yaml(entries)))
    return written


def safe_name(label: str) -> str:
    """A label as a file name: nothing in it leaves the folder."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", label).strip(".") or "model"


_HEADS = [
    *("suite", "part", "task", "model", "metric", "filter", "value", "stderr", "questions"),
    *("against_base", "p_base", "against_best_parent", "p_best_parent", "best_parent"),
]


def _csv(evaluation: Evaluation) -> str:
    """One row per task and model. The p values are not corrected for each other: those of the tables are."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_HEADS)
    for result in evaluation.suites:
        for part in result.suite.parts:
            for entry in part.tasks:
                for model in result.models:
                    value = model.values[entry]
                    by_role = {c.role: c for c in evaluation.against(result, model.label, entry)}
                    base, parent = by_role.get("base"), by_role.get("best parent")
                    row = [result.suite.name, part.name, entry.name, model.label, value.metric, value.filter]
                    row += [value.value, value.error, value.count]
                    row += [base.difference, base.p] if base else ["", ""]
                    rows.writerow(row + ([parent.difference, parent.p, parent.other] if parent else ["", "", ""]))
    return text.getvalue()


def _results_json(evaluation: Evaluation, model: ModelResult) -> str:
    """With the keys that lm-evaluation-harness writes, samples in their own files."""
    settings = evaluation.settings
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
    """What lm-evaluation-harness's results hold beside JSON's own types; only they do, so that it is installed."""
    from lm_eval.utils import handle_non_serializable

    return handle_non_serializable(value)
