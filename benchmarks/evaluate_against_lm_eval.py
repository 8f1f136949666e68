"""Our backend against lm-evaluation-harness's own `hf` model: same weights, tasks, questions and scores, one after the other.

    python benchmarks/evaluate_against_lm_eval.py MODEL DATA --limit 12 [--cases zero-shot,fixed,drawn,gsm8k]

MODEL is a folder, DATA what `weightsmith evaluate --data` takes. Each run is a process of its own; times are those of asking, with
models and tasks loaded. lm-eval's batch size is the best of several on a few questions of the same case.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

AGIEVAL = "aqua_rat logiqa_en lsat_ar lsat_lr lsat_rc sat_en sat_en_without_passage sat_math".split()
FILES = {name: name.replace("_", "-") for name in AGIEVAL}
BATCHES = (1, 4, 8, 16)
CASES = {
    "zero-shot": ("AGIEval, 8 tasks, 0-shot", [f"agieval_{name}" for name in AGIEVAL], None),
    "fixed": ("AGIEval, 8 tasks, 5-shot, the first examples", [f"fixed_agieval_{name}" for name in AGIEVAL], 5),
    "drawn": ("AGIEval, 8 tasks, 5-shot, drawn examples", [f"agieval_{name}" for name in AGIEVAL], 5),
    "gsm8k": ("GSM8K, 5-shot, generated", ["gsm8k"], 5),
}


def fixed_tasks(folder: Path) -> None:
    """AGIEval with lm-eval's `first_n` examples."""
    import lm_eval

    tasks = Path(lm_eval.__path__[0]) / "tasks" / "agieval"
    for name, file in FILES.items():
        text = f"include: {tasks / file}.yaml\ntask: fixed_agieval_{name}\nfewshot_config: {{sampler: first_n}}\n"
        (folder / f"{name}.yaml").write_text(text)


def work(order: dict) -> dict:
    """One side of one case, in this process."""
    import torch

    from weightsmith.architecture import open_model
    from weightsmith.evaluate.suite import suite_of_tasks
    from weightsmith.evaluate.suite_tasks import load_tasks

    torch.set_num_threads(order["threads"])
    tasks = load_tasks(
        suite_of_tasks(order["tasks"]), data=Path(order["data"]), fewshot=order["fewshot"], include=(Path(order["include"]),)
    )  # fmt: skip
    from lm_eval.evaluator import evaluate

    if order["side"] == "lm_eval":
        from lm_eval.models.huggingface import HFLM

        model = HFLM(pretrained=order["model"], dtype=order["dtype"], batch_size=order["batch"], device="cpu")
    else:
        from weightsmith.evaluate.harness_model import HarnessModel
        from weightsmith.evaluate.transformers_backend import TransformersBackend

        model = HarnessModel(TransformersBackend(open_model(order["model"]), precision=order["dtype"]))
    started = time.perf_counter()
    found = evaluate(
        model, {"tasks": tasks.tasks, "groups": {}, "group_map": {}}, limit=order["limit"], bootstrap_iters=0
    )
    seconds = time.perf_counter() - started
    answers = {
        f"{task} {sample['doc_id']} {sample['filter']}": {m: sample[m] for m in sample["metrics"]}
        for task, samples in found["samples"].items()
        for sample in samples
    }
    return {"seconds": seconds, "answers": answers}


def run(**order: object) -> dict:
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [sys.executable, __file__, "--work", json.dumps(order), "--out", out.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        return json.loads(Path(out.name).read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--limit", type=int, default=12, help="questions of each task (GSM8K: 50)")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        Path(given.out).write_text(json.dumps(work(json.loads(given.work))))
        return
    import os

    from weightsmith.evaluate.benchmark import fast_precision
    from weightsmith.report.facts import machine

    print(machine() + "\n")
    print("| work | questions | lm-eval, s (batch) | weightsmith, s | ratio | same | bfloat16, s | on top | agree |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as include:
        fixed_tasks(Path(include))
        for case in given.cases.split(","):
            title, tasks, fewshot = CASES[case]
            limit = 50 if case == "gsm8k" else given.limit
            order = {
                "model": given.model, "data": given.data, "include": include, "tasks": tasks, "fewshot": fewshot,
                "threads": len(os.sched_getaffinity(0)), "dtype": "float32",
            }  # fmt: skip
            probe = {b: run(**order, side="lm_eval", batch=b, limit=b if case == "gsm8k" else 2)["seconds"] / (b if case == "gsm8k" else 1) for b in BATCHES}  # fmt: skip
            batch = min(probe, key=lambda b: probe[b])
            theirs = run(**order, side="lm_eval", batch=batch, limit=limit)
            ours = run(**order, side="weightsmith", limit=limit)
            same = sum(ours["answers"][k] == v for k, v in theirs["answers"].items())
            row = [title, str(len(theirs["answers"])), f"{theirs['seconds']:.1f} ({batch})", f"{ours['seconds']:.1f}",
                   f"{theirs['seconds'] / ours['seconds']:.1f}", f"{same} of {len(theirs['answers'])}"]  # fmt: skip
            if fast_precision() == "bfloat16":
                half = run(**(order | {"dtype": "bfloat16"}), side="weightsmith", limit=limit)
                agree = sum(half["answers"][k] == v for k, v in ours["answers"].items())
                row += [
                    f"{half['seconds']:.1f}",
                    f"{ours['seconds'] / half['seconds']:.2f}",
                    f"{agree} of {len(ours['answers'])}",
                ]
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
