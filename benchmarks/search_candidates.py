"""How long a new candidate of a search takes, until the live model is that merge: SmolLM2-135M and two fine-tunes, TIES.

    make bench-search

Every candidate has other weights and densities, so that all tensors are computed; the first one opens the models and sorts task vectors.
mergekit's whole process on the same recipe, in the same run.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measured import measure, where
from merge_demo_models import FOLDER, SCRIPTS, make_inputs

from weightsmith.evaluate.benchmark import fast_precision
from weightsmith.report.markdown_table import markdown_table
from weightsmith.search.input_cache import InputCache
from weightsmith.search.live_merge import LiveMerge

CANDIDATES, MERGEKIT_ROUNDS = 12, 3


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    make_inputs()
    random = np.random.default_rng(0)
    recipes = [recipe(*(round(float(x), 3) for x in random.uniform(0.2, 1.0, 4))) for _ in range(CANDIDATES)]
    rows = [["", "seconds (lowest to highest)"]]
    for precision in dict.fromkeys(("float32", fast_precision())):
        first, others = candidates(recipes, precision)
        rows.append([f"the first candidate, {precision}", f"{first:.2f}"])
        rows.append([f"each new candidate, {precision}", spread(others)])
    theirs = []
    for one in recipes[:MERGEKIT_ROUNDS]:
        path = FOLDER / "search.yml"
        path.write_text(json.dumps(one))
        shutil.rmtree(FOLDER / "theirs", ignore_errors=True)
        command = [str(SCRIPTS / "mergekit-yaml"), str(path), str(FOLDER / "theirs"), "--no-copy-tokenizer", "--quiet"]
        theirs.append(measure(command).wall)
    rows.append(["mergekit, the whole process", spread(theirs)])
    print(f"{where()}\n")
    print(markdown_table(rows))
    shutil.rmtree(FOLDER / "theirs", ignore_errors=True)


def recipe(one: float, two: float, three: float, four: float) -> dict:
    models = [
        {"model": str(FOLDER / name), "parameters": {"weight": weight, "density": density}}
        for name, weight, density in (("dates", one, two), ("records", three, four))
    ]
    return {"merge_method": "ties", "base_model": str(FOLDER / "base"), "models": models, "dtype": "float32"}


def candidates(recipes: list[dict], precision: str) -> tuple[float, list[float]]:
    """Seconds of the first, and of each other one, its plan included."""
    seconds = []
    with tempfile.TemporaryDirectory() as scratch:
        threads = len(os.sched_getaffinity(0))
        cache = InputCache(Path(scratch), 8_000_000_000)
        live = LiveMerge(Path("search.yml"), threads=threads, precision=precision, cache=cache)
        for one in recipes:
            started = time.perf_counter()
            merged = live.become(live.plan(one))
            seconds.append(time.perf_counter() - started)
            print(f"{precision}: {seconds[-1]:.2f} s, {merged.tensors} tensors", file=sys.stderr, flush=True)
        live.close()
    return seconds[0], seconds[1:]


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
