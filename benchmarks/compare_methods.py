"""Which methods beat plain task arithmetic by more than chance? All methods, at their defaults and at their best of a
search with equally many trials, on fine-tunes that get in each other's way (hard_set.py).

    .venv/bin/python benchmarks/compare_methods.py search [METHOD ...]   # on the adapters of seed 0 and the questions `tune`
    .venv/bin/python benchmarks/compare_methods.py score [SEED ...]      # defaults and winners on the questions `test`
    .venv/bin/python benchmarks/compare_methods.py table                 # docs/method-evidence.md from what was scored

Each step keeps what it has done and goes on when it is called again. Winners are found on one seed and asked on all.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hard_set import SEEDS, SKILLS
from hard_set import main as make_hard_set

import weightsmith
from weightsmith.demo.run_demo import PACKAGE, base_model
from weightsmith.evaluation.results.paired_tests import compare_averages, corrected
from weightsmith.machine import describe_machine
from weightsmith.methods.registry import METHODS

FOLDER, PAGE = Path("build/hard-set"), Path("docs/method-evidence.md")
PROGRAM = Path(sysconfig.get_path("scripts")) / "weightsmith"
TRIALS = 8
PLAIN = "task_arithmetic"
_WEIGHT, _DENSITY, _LAMBDA = {"uniform": [0.1, 1.2]}, {"uniform": [0.1, 1.0]}, {"uniform": [0.3, 2.0]}
_SIGNS = {"weight": _WEIGHT, "density": _DENSITY, "normalize": {"choice": [False, True]}}
DEFAULTS: dict[str, dict[str, Any]] = {  # what has no default
    name: {"weight": 1.0} for name in METHODS if any(p.name == "weight" for p in METHODS[name].parameters)
}
SPACES: dict[str, dict[str, Any]] = {
    PLAIN: {"weight": _WEIGHT},
    "linear": {},
    "ties": _SIGNS,
    "dare_linear": {"weight": _WEIGHT, "density": {"uniform": [0.2, 1.0]}},
    "dare_ties": _SIGNS,
    "della": {"weight": _WEIGHT, "density": {"uniform": [0.3, 0.8]}},
    "della_linear": {"weight": _WEIGHT, "density": {"uniform": [0.3, 0.8]}},
    "breadcrumbs": {"weight": _WEIGHT, "density": _DENSITY, "gamma": {"uniform": [0.0, 0.05]}},
    "breadcrumbs_ties": _SIGNS | {"gamma": {"uniform": [0.0, 0.05]}},
    "ram": {"lines_alpha": {"uniform": [0.5, 4.0]}},
    "ramplus": {"lines_alpha": {"uniform": [0.5, 4.0]}, "r": {"uniform": [0.1, 0.5]}},
    "pcb": {"density": {"uniform": [0.05, 0.5]}, "lambda": {"uniform": [0.5, 4.0]}},
    "sce": {"select_topk": {"uniform": [0.1, 1.0]}, "lines_alpha": {"uniform": [0.5, 4.0]}},
    "consensus": {"tall_lambda": {"uniform": [0.2, 0.8]}, "lambda": _LAMBDA},
    "weighted_median": {},
    "model_stock": {},
    "multislerp": {},
    "karcher": {},
    "tsv_m": {"lambda": _LAMBDA},
    "iso_c": {"lambda": _LAMBDA},
    "iso_cts": {"lambda": _LAMBDA, "common_space_fraction": {"uniform": [0.5, 0.95]}},
    "swudi": {"lambda": _LAMBDA, "t": {"loguniform": [30, 3000]}, "start": {"choice": ["mean", "sum"]}},
    "aswudi": {"lambda": _LAMBDA, "start": {"choice": ["mean", "sum"]}},
    "actmat": {"lambda": _LAMBDA},
    "knots": _SIGNS,
    "svc": {"rule": {"choice": ["task_arithmetic", "ties", "tsv_m"]}, "alpha": {"uniform": [0.05, 1.0]}},
    "core_space": {"rule": {"choice": ["tsv_m", "swudi", "iso_c"]}, "lambda": _LAMBDA},
    "ortho_merge": {},  # minutes for each merge: its defaults alone
}


def recipe(method: str, seed: int, parameters: dict[str, Any]) -> dict[str, Any]:
    base, adapters = str(base_model()), (FOLDER / f"seed-{seed}").absolute()
    content = {
        "merge_method": method,
        "models": [{"model": f"{base}+{adapters / skill}"} for skill in SKILLS],
        "parameters": DEFAULTS.get(method, {}) | parameters,
        "dtype": "float32",
    }
    return content | ({"base_model": base} if METHODS[method].needs_base else {})


def questions(split: str) -> list[Path]:
    return [(FOLDER / split / f"{skill}.jsonl").absolute() for skill in SKILLS]


def search(methods: list[str]) -> None:
    """Equally many trials for each method that has something to search."""
    for method in methods or SPACES:
        out = FOLDER / "search" / method
        if not SPACES[method] or (out / "summary.json").exists():
            continue
        out.parent.mkdir(parents=True, exist_ok=True)
        objective = [{"questions": str(path), "metric": "perplexity"} for path in questions("tune")]
        content = {"recipe": recipe(method, 0, SPACES[method]), "objective": objective, "trials": TRIALS, "seed": 0}
        path = out.with_suffix(".yml")
        path.write_text(json.dumps(content, indent=1))
        resume = ["--resume"] * (out / "study.db").exists()
        subprocess.run([str(PROGRAM), "search", str(path), str(out), *resume], check=True)


def winner(method: str) -> dict[str, Any] | None:
    """The parameters that the search found."""
    path = FOLDER / "search" / method / "best.yml"
    if not path.exists():
        return None
    return dict(weightsmith.Recipe.from_file(path).schema.parameters)


def score(seeds: list[int]) -> None:
    """Every method's answers to the questions that no search saw."""
    for seed in seeds or SEEDS:
        weightsmith.evaluate(
            models(seed),
            FOLDER / f"scores-{seed}",
            questions=questions("test"),
            texts=[PACKAGE / "data" / "general.txt"],
        )


def models(seed: int) -> dict[str, Any]:
    """Label -> recipe: each method's defaults, and what the search found."""
    found = {}
    for method in SPACES:
        found[method] = weightsmith.Recipe.from_dict(recipe(method, seed, {}))
        if best := winner(method):
            found[f"{method}, searched"] = weightsmith.Recipe.from_dict(recipe(method, seed, best))
    return found


def table() -> None:
    """The page: mean of the skills, and the paired difference to task arithmetic of the same kind, over all seeds."""
    results = {
        seed: weightsmith.evaluate(
            models(seed),
            FOLDER / f"scores-{seed}",
            questions=questions("test"),
            texts=[PACKAGE / "data" / "general.txt"],
        )
        for seed in SEEDS
    }
    asked = {
        label: [
            task
            for result in results.values()
            for model in result.suites[0].models
            if model.label == label
            for task in model.values.values()
            if task.entry.name in SKILLS
        ]
        for label in models(SEEDS[0])
    }
    comparisons = []
    for label, tasks in asked.items():
        plain = PLAIN + (", searched" if label.endswith(", searched") else "")
        if label != plain:
            weights = [1 / len(tasks)] * len(tasks)
            comparisons.append(compare_averages(tasks, asked[plain], weights, label, plain, "all skills"))
    verdicts = {comparison.label: comparison for comparison in corrected(comparisons)}
    lines = [f"{describe_machine()}\n", "| method | mean of skills | against task arithmetic | p (Holm) | verdict |"]
    lines.append("| --- | ---: | ---: | ---: | --- |")
    for label, tasks in sorted(asked.items(), key=lambda item: -sum(task.value for task in item[1])):
        mean = sum(task.value for task in tasks) / len(tasks)
        one = verdicts.get(label)
        cells = f"{one.difference:+.1f} | {one.p_holm:.3g} | {one.verdict}" if one else " | | "
        lines.append(f"| `{label}` | {mean:.1f} | {cells} |")
    PAGE.write_text("\n".join(lines) + "\n")
    print(PAGE.read_text())


if __name__ == "__main__":
    make_hard_set(FOLDER, list(SEEDS))
    command, *names = sys.argv[1:]
    {"search": search, "score": lambda seeds: score([int(seed) for seed in seeds]), "table": lambda _: table()}[
        command
    ](names)
