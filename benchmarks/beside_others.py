"""How much longer do a merge and an evaluation take while other programs keep every core busy?

    make bench-beside

TIES of the demo's base and three adapters; 60 questions to the base in llama.cpp, and to the merge in transformers. Each runs alone and beside as many busy
processes as there are cores, in turn, ROUNDS times; with threads that wait passively, as the command line has it, and
with threads that spin (`OMP_WAIT_POLICY=ACTIVE`). Time is wall clock and processor time of the whole process, medians.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measured import Measured, measure, where

import weightsmith
from weightsmith.demo.run_demo import PACKAGE, base_model
from weightsmith.machine import available_cores

FOLDER = Path("build/beside")
OUT = FOLDER / "out"
SKILLS = ("dates", "records", "commands")
ROUNDS, QUESTIONS = 3, 20  # for each skill


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    print(f"{where()}\n")
    print(
        "| job | threads wait | alone: wall, s | processor, s | beside others: wall, s | processor, s | wall | processor |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for job, command in jobs().items():
        for policy in ("PASSIVE", "ACTIVE"):
            alone, beside = list[Measured](), list[Measured]()
            for _ in range(ROUNDS):
                alone.append(once(command, policy))
                with busy_processes():
                    beside.append(once(command, policy))
            walls = [statistics.median(one.wall for one in runs) for runs in (alone, beside)]
            cores = [statistics.median(one.cpu for one in runs) for runs in (alone, beside)]
            cells = [f"{walls[0]:.1f}", f"{cores[0]:.1f}", f"{walls[1]:.1f}", f"{cores[1]:.1f}"]
            ratios = [f"{walls[1] / walls[0]:.2f} ×", f"{cores[1] / cores[0]:.2f} ×"]
            print(f"| {job} | {policy.lower()} | " + " | ".join(cells + ratios) + " |", flush=True)


def jobs() -> dict[str, list[str]]:
    program = [sys.executable, "-m", "weightsmith"]
    recipe = FOLDER / "ties.yml"
    models = [
        {"model": f"{base_model()}+{PACKAGE / 'adapters' / skill}", "parameters": {"weight": 1.0, "density": 0.5}}
        for skill in SKILLS
    ]
    recipe.write_text(json.dumps({"merge_method": "ties", "base_model": str(base_model()), "models": models}))
    questions = FOLDER / "questions.jsonl"
    rows = [(PACKAGE / "data" / f"{skill}.jsonl").read_text().splitlines(keepends=True)[:QUESTIONS] for skill in SKILLS]
    questions.write_text("".join(row for of_skill in rows for row in of_skill))
    merged = FOLDER / "merged"
    if not merged.exists():
        weightsmith.merge(recipe, merged)
    asked = ["--questions", str(questions), "-o", str(OUT), "--quiet"]
    return {
        "merge": [*program, "merge", str(recipe), str(OUT), "--quiet"],
        "evaluate, llama.cpp": [*program, "evaluate", f"base={base_model()}", *asked],
        "evaluate, transformers": [*program, "evaluate", f"merged={merged}", *asked],
    }


def once(command: list[str], policy: str) -> Measured:
    shutil.rmtree(OUT, ignore_errors=True)
    return measure(command, OMP_WAIT_POLICY=policy)


@contextmanager
def busy_processes() -> Iterator[None]:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(available_cores())]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
