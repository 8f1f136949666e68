"""One side of one case of evaluate_against_lm_eval.py, in a process of its own: an order as JSON in, seconds and
answers as JSON out."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from weightsmith.evaluation.harness.suite_tasks import SuiteTasks, load_tasks
from weightsmith.evaluation.tasks.suite import SuiteEntry, suite_of
from weightsmith.models.open_model import open_model

PROBED = 1  # questions of each task by which lm-eval's batch size is chosen


def work(order: dict[str, Any]) -> dict[str, Any]:
    """Times are those of asking: the model and the tasks are loaded."""
    from lm_eval.evaluator import evaluate

    torch.set_num_threads(order["threads"])
    tasks = load_tasks(
        suite_of([SuiteEntry(task=name) for name in order["tasks"]]),
        data=Path(order["data"]) if order["data"] else None,
        fewshot=order["fewshot"],
        include=(Path(order["include"]),),
    )
    model = _model(order)
    if order["side"] == "probe":
        return {"seconds": {batch: _probe(model, tasks, batch, order) for batch in order["batches"]}}
    started = time.perf_counter()
    results = evaluate(model, _given(tasks), limit=order["limit"], bootstrap_iters=0)
    seconds = time.perf_counter() - started
    assert results
    answers: dict[str, dict[str, Any]] = {}
    scores: dict[str, list[float]] = {}
    for task, samples in results["samples"].items():
        for sample in samples:
            name = f"{task} {sample['doc_id']}"
            answers.setdefault(name, {}).update({f"{m},{sample['filter']}": sample[m] for m in sample["metrics"]})
            scores[name] = [score for response in sample["resps"] for score in _log_likelihoods(response)]
    return {
        "seconds": seconds,
        "answers": answers,
        "scores": scores,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _model(order: dict[str, Any]) -> Any:
    if order["side"] == "server":
        from lm_eval.models.gguf import GGUFLM

        return GGUFLM(base_url=order["url"])
    if order["side"] in ("lm_eval", "probe"):
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=order["model"], dtype=order["dtype"], batch_size=order.get("batch", 1), device="cpu")
    from weightsmith.evaluation.backends.open_backend import open_backend
    from weightsmith.evaluation.harness.harness_model import HarnessModel

    return HarnessModel(open_backend(open_model(order["model"]), precision=order["dtype"], threads=order["threads"]))


def _probe(model: Any, tasks: SuiteTasks, batch: int, order: dict[str, Any]) -> float:
    """Seconds per question; generation is asked as many questions as fit into a batch."""
    from lm_eval.evaluator import evaluate

    count = batch if order["generates"] else PROBED
    model.batch_size_per_gpu = batch
    started = time.perf_counter()
    evaluate(model, _given(tasks), limit=count, bootstrap_iters=0)
    return (time.perf_counter() - started) / count


def _log_likelihoods(responses: list[Any]) -> list[float]:
    """(ln p, is it the most likely one), or ln p of a whole text; generated texts have none."""
    results = [response[0] if isinstance(response, tuple | list) else response for response in responses]
    return [float(value) for value in results if isinstance(value, float)]


def _given(tasks: SuiteTasks) -> dict[str, Any]:
    return {"tasks": tasks.tasks, "groups": {}, "group_map": {}}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(work(json.loads(sys.argv[1]))))
