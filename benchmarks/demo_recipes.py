"""Which recipe keeps the demo's three skills? Methods and parameters, each merged and scored on the held-out questions.

make bench
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import weightsmith
from weightsmith.demo.run_demo import PACKAGE, base_model
from weightsmith.evaluation.results.score_tables import show_value
from weightsmith.machine import describe_machine

SKILLS = ("dates", "records", "commands")
RECIPES: list[tuple[str, dict[str, float], dict[str, bool]]] = [
    ("linear", {"weight": 1.0}, {}),
    ("task_arithmetic", {"weight": 0.5}, {}),
    ("task_arithmetic", {"weight": 0.7}, {}),
    ("task_arithmetic", {"weight": 1.0}, {}),
    ("ties", {"weight": 1.0, "density": 0.5}, {"normalize": True}),
    ("ties", {"weight": 0.7, "density": 0.7}, {"normalize": False}),
    ("ties", {"weight": 1.0, "density": 0.1}, {"normalize": False}),
    ("ties", {"weight": 1.0, "density": 0.3}, {"normalize": False}),
    ("ties", {"weight": 1.0, "density": 0.5}, {"normalize": False}),
]


def main() -> None:
    print(f"{describe_machine()}\n")
    print(f"| method | weight | density | normalize | {' | '.join(SKILLS)} | general (perplexity) |")
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    scratch = Path(tempfile.mkdtemp(prefix="demo-recipes-"))
    try:
        for method, per_model, shared in RECIPES:
            cells = [method, per_model["weight"], per_model.get("density", ""), shared.get("normalize", "")]
            print(
                f"| {' | '.join(map(str, cells))} | {' | '.join(scores(scratch, method, per_model, shared))} |",
                flush=True,
            )
    finally:
        shutil.rmtree(scratch)


def scores(scratch: Path, method: str, per_model: dict[str, float], shared: dict[str, bool]) -> list[str]:
    base = str(base_model())
    models = [{"model": f"{base}+{PACKAGE / 'adapters' / skill}", "parameters": per_model} for skill in SKILLS]
    recipe = {"merge_method": method, "models": models, "parameters": shared, "dtype": "float32"}
    if method != "linear":
        recipe["base_model"] = base
    path = scratch / "recipe.yml"
    path.write_text(json.dumps(recipe))
    weightsmith.merge(path, scratch / "merged", force=True)
    questions = [PACKAGE / "data" / f"{skill}.jsonl" for skill in SKILLS]
    result = weightsmith.evaluate(
        [str(scratch / "merged")], questions=questions, texts=[PACKAGE / "data" / "general.txt"]
    )
    return [show_value(value) for value in result.suites[0].models[0].values.values()]


if __name__ == "__main__":
    main()
