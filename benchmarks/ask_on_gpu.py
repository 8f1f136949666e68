"""Questions on a device, beside lm-evaluation-harness, and candidates of a search that are merged there; `on_gpu.py`
says which.

A full-size Phi-2 (random weights, SmolLM2's tokenizer) answers questions of random words: with four choices, without
examples and behind five that all share, and in its own words. Each side is a process of its own; times are those of
asking, after a first question. lm-eval finds its batch size itself (`auto`). A search's model becomes one TIES of two
fine-tunes after the other, with weights and densities drawn anew.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from search_candidates import live_merge, recipe

from weightsmith.evaluation.backends.open_backend import open_backend
from weightsmith.evaluation.harness.harness_model import HarnessModel
from weightsmith.models.open_model import open_model

WORDS = "river stone count seven green paper while under letter carry north engine window answer music salt".split()
QUESTIONS, GENERATED, TOKENS, CANDIDATES = 200, 64, 64, 6
DRY_QUESTIONS, DRY_GENERATED, DRY_TOKENS = 2, 1, 4
KINDS = {"choices": "4 choices, 0-shot", "examples": "4 choices, 5 examples that all share", "generated": "generated"}


def asked(model: Path, device: str, dtype: str, dry: bool) -> list[list[str]]:
    """For each kind of question seconds of both sides, and how far their answers are apart."""
    rows = [["questions", "precision", "lm-eval, s", "weightsmith, s", "times faster", "same answers", "ln p apart"]]
    theirs, ours = (run_side(side, model, device, dtype, dry) for side in ("lm-eval", "weightsmith"))
    for kind, title in KINDS.items():
        a, b = theirs[kind], ours[kind]
        pairs = list(zip(a["answers"], b["answers"], strict=True))
        apart = max((abs(x - y) for x, y in zip(a["scores"], b["scores"], strict=True)), default=None)
        rows.append(
            [
                f"{len(pairs)} {title}",
                dtype,
                f"{a['seconds']:.2f}",
                f"{b['seconds']:.2f}",
                f"{a['seconds'] / b['seconds']:.1f}",
                f"{sum(x == y for x, y in pairs)} of {len(pairs)}",
                "" if apart is None else f"{apart:.0e}",
            ]
        )
    return rows


def run_side(side: str, model: Path, device: str, dtype: str, dry: bool) -> dict[str, Any]:
    command = [sys.executable, __file__, side, str(model), device, dtype, *(["--dry"] if dry else [])]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def ask(side: str, model: str, device: str, dtype: str, dry: bool) -> dict[str, Any]:
    """Seconds, answers and log-probabilities of each kind, as one side gives them."""
    if side == "lm-eval":
        from lm_eval.models.huggingface import HFLM

        asked_model: Any = HFLM(pretrained=model, dtype=dtype, batch_size=1 if dry else "auto", device=device)
    else:
        asked_model = HarnessModel(open_backend(open_model(model), precision=dtype, device=device))
    results = {}
    for kind in KINDS:
        requests = questions(kind, dry)
        answer = asked_model.generate_until if kind == "generated" else asked_model.loglikelihood
        answer(requests[:4])  # what is loaded and compiled the first time
        started = time.perf_counter()
        replies = answer(requests)
        seconds = time.perf_counter() - started
        if kind == "generated":
            results[kind] = {"seconds": seconds, "answers": replies, "scores": []}
        else:
            scores = [score for score, _ in replies]
            best = [int(np.argmax(scores[at : at + 4])) for at in range(0, len(scores), 4)]
            results[kind] = {"seconds": seconds, "answers": best, "scores": scores}
    return results


def questions(kind: str, dry: bool) -> list[Any]:
    """As lm-eval's tasks make them: one request for each choice, or one for each question."""
    from lm_eval.api.instance import Instance

    draw, length = random.Random(0), 6 if dry else 60

    def some(count: int) -> str:
        return " ".join(draw.choices(WORDS, k=count))

    examples = (
        "".join(f"Question: {some(length)}?\nAnswer: {some(3)}\n\n" for _ in range(5)) if kind == "examples" else ""
    )
    if kind == "generated":
        count, tokens = (DRY_GENERATED, DRY_TOKENS) if dry else (GENERATED, TOKENS)
        stops = {"until": ["\n\n"], "max_gen_toks": tokens, "do_sample": False}
        prompts = [f"Question: {some(length)}?\nAnswer:" for _ in range(count)]
        return [Instance("generate_until", {}, (prompt, stops), number) for number, prompt in enumerate(prompts)]
    requests = []
    for _ in range(DRY_QUESTIONS if dry else QUESTIONS):
        context = f"{examples}Question: {some(length)}?\nAnswer:"
        requests += [Instance("loglikelihood", {}, (context, f" {some(3)}"), choice) for choice in range(4)]
    return requests


def searched(folder: Path, device: str, dry: bool) -> list[list[str]]:
    """Seconds until the live model is the first candidate, and each later one."""
    drawn = np.random.default_rng(0)
    seconds = []
    with live_merge("float32" if dry else "bfloat16", device) as live:
        for _ in range(2 if dry else CANDIDATES):
            started = time.perf_counter()
            live.become(live.plan(recipe(folder, ("one", "two"), "float16", drawn)))
            seconds.append(time.perf_counter() - started)
    return [
        ["candidates of a search, TIES", "the first, s", "each new one, s"],
        [f"on {device}", f"{seconds[0]:.2f}", f"{statistics.median(seconds[1:]):.2f}"],
    ]


if __name__ == "__main__":
    side, path, *rest = sys.argv[1:5]
    print(json.dumps(ask(side, path, *rest, dry="--dry" in sys.argv)))
