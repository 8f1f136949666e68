"""Which recipe keeps the demo's three skills? Methods and parameters, each merged and scored on the held-out questions.

make bench, or .venv/bin/python benchmarks/demo_recipes.py [METHOD ...]
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import weightsmith
from weightsmith.demo.run_demo import PACKAGE, base_model
from weightsmith.evaluation.results.score_tables import show_value
from weightsmith.machine import describe_machine

SKILLS = ("dates", "records", "commands")
Settings = dict[str, float | bool | str]
RECIPES: list[tuple[str, Settings, Settings]] = [
    ("linear", {"weight": 1.0}, {}),
    ("task_arithmetic", {"weight": 0.5}, {}),
    ("task_arithmetic", {"weight": 0.7}, {}),
    ("task_arithmetic", {"weight": 1.0}, {}),
    ("ties", {"weight": 1.0, "density": 0.5}, {"normalize": True}),
    ("ties", {"weight": 0.7, "density": 0.7}, {"normalize": False}),
    ("ties", {"weight": 1.0, "density": 0.1}, {"normalize": False}),
    ("ties", {"weight": 1.0, "density": 0.3}, {"normalize": False}),
    ("ties", {"weight": 1.0, "density": 0.5}, {"normalize": False}),
    ("sce", {}, {}),
    ("ram", {}, {}),
    ("ramplus_tl", {}, {}),
    ("multislerp", {"weight": 1.0}, {}),
    ("karcher", {}, {}),
    ("model_stock", {}, {}),
    ("tsv_m", {}, {}),
    ("iso_c", {}, {}),
    ("iso_c", {}, {"lambda": 1.5}),
    ("iso_cts", {}, {}),
    ("swudi", {}, {}),
    ("swudi", {}, {"start": "sum"}),
    ("aswudi", {}, {}),
    ("actmat", {}, {}),
    ("knots", {}, {}),
    ("knots", {}, {"normalize": False}),
    ("svc", {}, {}),
    ("svc", {"density": 0.5}, {"rule": "ties", "normalize": False}),
    ("svc", {}, {"rule": "tsv_m", "alpha": 1.0}),
    ("core_space", {}, {}),
    ("core_space", {}, {"rule": "ties"}),
    ("core_space", {}, {"rule": "swudi"}),
    ("ortho_merge", {}, {}),
    ("ortho_merge", {}, {"rule": "tsv_m"}),
    ("ramplus", {}, {}),
    ("pcb", {}, {}),
    ("ties", {"weight": 1.0, "density": 0.5}, {"normalize": True, "lines_alpha": "auto"}),
]


def main() -> None:
    print(f"{describe_machine()}\n")
    print(f"| method | parameters | merge, s | {' | '.join(SKILLS)} | general (perplexity) |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    scratch = Path(tempfile.mkdtemp(prefix="demo-recipes-"))
    try:
        for method, per_model, shared in RECIPES:
            if sys.argv[1:] and method not in sys.argv[1:]:
                continue
            given = ", ".join(f"{name} {str(value).lower()}" for name, value in (per_model | shared).items())
            cells = [f"`{method}`", given, *scores(scratch, method, per_model, shared)]
            print(f"| {' | '.join(cells)} |", flush=True)
    finally:
        shutil.rmtree(scratch)


def scores(scratch: Path, method: str, per_model: Settings, shared: Settings) -> list[str]:
    base = str(base_model())
    models = [{"model": f"{base}+{PACKAGE / 'adapters' / skill}", "parameters": per_model} for skill in SKILLS]
    recipe = {"merge_method": method, "models": models, "parameters": shared, "dtype": "float32"}
    if weightsmith.Recipe.from_dict({**recipe, "base_model": base}).method.needs_base:
        recipe["base_model"] = base
    path = scratch / "recipe.yml"
    path.write_text(json.dumps(recipe))
    summary = weightsmith.merge(path, scratch / "merged", force=True)
    questions = [PACKAGE / "data" / f"{skill}.jsonl" for skill in SKILLS]
    result = weightsmith.evaluate(
        [str(scratch / "merged")], questions=questions, texts=[PACKAGE / "data" / "general.txt"]
    )
    return [f"{summary.seconds:.0f}"] + [show_value(value) for value in result.suites[0].models[0].values.values()]


if __name__ == "__main__":
    main()
