"""Which methods beat plain task arithmetic by more than chance? All methods, at their defaults and at their best of a
search with equally many trials, on the demo's three skills (`demo`) and on fine-tunes that get in each other's way
(`hard`, hard_set.py).

    .venv/bin/python benchmarks/compare_methods.py search SET [METHOD ...]   # on the adapters of seed 0, questions `tune`
    .venv/bin/python benchmarks/compare_methods.py score SET SEED [METHOD ...]   # defaults and winners, questions `test`
    .venv/bin/python benchmarks/compare_methods.py pairs SET SEED            # is what `inspect --stats` suggests right?
    .venv/bin/python benchmarks/compare_methods.py table                     # docs/method-evidence.md
    .venv/bin/python benchmarks/compare_methods.py everything                # all of it: hours

Winners are found on one seed and asked on all. What was found is in method_evidence.json beside this file, one merge
after the other; each step goes on from there. Adapters are trained where they are not there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import hard_set
from pydantic import TypeAdapter

import weightsmith
from weightsmith.demo.run_demo import PACKAGE, base_model
from weightsmith.evaluation.results.paired_tests import Comparison, compare_averages, corrected
from weightsmith.evaluation.results.task_result import TaskResult
from weightsmith.evaluation.tasks.suite import SuiteEntry
from weightsmith.files.digests import file_digest
from weightsmith.inspection.movement import Movement
from weightsmith.inspection.suggest_method import suggest
from weightsmith.machine import describe_machine
from weightsmith.methods.registry import METHODS

FOLDER, PAGE = Path("build"), Path("docs/method-evidence.md")
FOUND = Path(__file__).with_name("method_evidence.json")
PROGRAM = Path(sysconfig.get_path("scripts")) / "weightsmith"
SKILLS = {"demo": ["dates", "records", "commands"], "hard": list(hard_set.SKILLS)}
SEEDS = {"demo": [0], "hard": list(hard_set.SEEDS)}
OF_PAIRS = ("task_arithmetic", "linear", "ties", "tsv_m", "core_space", "svc")
TRIALS, TUNE, TEST = 5, 16, 16  # questions per skill
GENERAL = PACKAGE / "data" / "general.txt"
PLAIN = "task_arithmetic"
_WEIGHT, _DENSITY, _LAMBDA = {"uniform": [0.1, 1.2]}, {"uniform": [0.1, 1.0]}, {"uniform": [0.3, 2.0]}
_SIGNS = {"weight": _WEIGHT, "density": _DENSITY, "normalize": {"choice": [False, True]}}
DEFAULTS: dict[str, dict[str, Any]] = {  # what has no default
    name: {"weight": 1.0} for name in METHODS if any(p.name == "weight" for p in METHODS[name].parameters)
}
for _name in ("regmean", "regmean_plusplus"):
    DEFAULTS[_name] |= {"samples": 8, "context": 256}  # 2,000 tokens of each skill's training examples
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
    "ramplus_tl": {"lines_alpha": {"uniform": [0.5, 4.0]}, "r": {"uniform": [0.1, 0.5]}},
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
    "regmean": {"reduction": {"uniform": [0.0, 1.0]}, "lambda": _LAMBDA},
    "regmean_plusplus": {},
    "fisher": {},
    "ortho_merge": {},  # minutes for each merge: its defaults alone
}


def adapter(set_name: str, seed: int, skill: str) -> Path:
    if set_name == "demo":
        return PACKAGE / "adapters" / skill
    return (FOLDER / "hard-set" / f"seed-{seed}" / skill).absolute()


def check_adapters(set_name: str, seed: int) -> None:
    """What was found before was found with these."""
    files = [adapter(set_name, seed, skill) / "adapter_model.safetensors" for skill in SKILLS[set_name]]
    digests = [file_digest(file)[:16] for file in files]
    before = load_found()[set_name].get("adapters", {}).get(str(seed))
    if before not in (None, digests):
        raise SystemExit(
            f"the adapters of {set_name}, seed {seed}, are not those of {FOUND} (training gives other bits on another "
            "kind of processor): empty `scores`, `pairs` and `adapters` there, and measure anew; winners may stay"
        )
    keep(set_name, digests, "adapters", str(seed))


def text_of(set_name: str, skill: str) -> Path:
    """What the fine-tune of that skill was trained with, as the model sees it."""
    path = (FOLDER / set_name / "text" / f"{skill}.txt").absolute()
    if not path.exists():
        train = FOLDER / ("demo-data" if set_name == "demo" else "hard-set/train")
        if set_name == "demo" and not train.exists():
            subprocess.run([sys.executable, "scripts/make_demo_data.py", "--train-out", str(train)], check=True)
        rows = [json.loads(line) for line in (train / f"{skill}.jsonl").read_text().splitlines()]
        turn = "<|im_start|>{}\n{}<|im_end|>\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(turn.format("user", r["prompt"]) + turn.format("assistant", r["target"]) for r in rows))
    return path


def recipe(
    set_name: str, method: str, seed: int, parameters: Mapping[str, Any], skills: Sequence[str] = ()
) -> dict[str, Any]:
    base, skills = str(base_model()), skills or SKILLS[set_name]
    models: list[dict[str, Any]] = [{"model": f"{base}+{adapter(set_name, seed, skill)}"} for skill in skills]
    if METHODS[method].reads_text:
        for entry, skill in zip(models, skills, strict=True):
            entry["parameters"] = {"text": str(text_of(set_name, skill))}
    content = {
        "merge_method": method,
        "models": models,
        "parameters": DEFAULTS.get(method, {}) | dict(parameters),
        "dtype": "float32",
    }
    return content | ({"base_model": base} if METHODS[method].needs_base else {})


def questions(set_name: str, split: str) -> list[Path]:
    """Files of `TUNE` or `TEST` questions; no question is in both."""
    paths = []
    for skill in SKILLS[set_name]:
        path = (FOLDER / set_name / split / f"{skill}.jsonl").absolute()
        if set_name == "demo":
            rows = (PACKAGE / "data" / f"{skill}.jsonl").read_text().splitlines(keepends=True)
            rows = rows[:TUNE] if split == "tune" else rows[TUNE : TUNE + 24]
        else:
            rows = [json.dumps(row) + "\n" for row in hard_set.examples(skill, split, max(TUNE, TEST))]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(rows[: TUNE if split == "tune" else None if set_name == "demo" else TEST]))
        paths.append(path)
    return paths


def load_found() -> dict[str, Any]:
    empty = {"machine": describe_machine(), "winners": {}, "scores": {}, "pairs": {}}
    return json.loads(FOUND.read_text()) if FOUND.exists() else {name: json.loads(json.dumps(empty)) for name in SKILLS}


def save_found(found: dict[str, Any]) -> None:
    FOUND.write_text(json.dumps(found, indent=1) + "\n")


def search(set_name: str, methods: list[str]) -> None:
    """Equally many trials for each method that has something to search."""
    objective = [{"questions": str(path), "metric": "perplexity"} for path in questions(set_name, "tune")]
    for method in methods or SPACES:
        if not SPACES[method] or method in load_found()[set_name]["winners"]:
            continue
        out = FOLDER / set_name / "search" / method
        out.parent.mkdir(parents=True, exist_ok=True)
        tree = {"recipe": recipe(set_name, method, 0, SPACES[method]), "objective": objective}
        path = out.with_suffix(".yml")
        path.write_text(json.dumps(tree | {"trials": TRIALS, "seed": 0, "held_out": 0.1}, indent=1))
        shutil.rmtree(out, ignore_errors=True)
        subprocess.run([str(PROGRAM), "search", str(path), str(out)], check=True, stdout=subprocess.DEVNULL)
        best = dict(weightsmith.Recipe.from_file(out / "best.yml").schema.parameters)
        keep(set_name, {name: best[name] for name in SPACES[method]}, "winners", method)
        print(f"{set_name}: {method}: {load_found()[set_name]['winners'][method]}", flush=True)


def score(set_name: str, seed: int, methods: list[str]) -> None:
    """Every method's answers to the questions that no search saw."""
    skills, models = SKILLS[set_name], dict[str, Any]()
    if not methods:
        models["base"] = str(base_model())
        models |= {f"{skill} alone": f"{base_model()}+{adapter(set_name, seed, skill)}" for skill in skills}
    for method in methods or SPACES:
        models[method] = recipe(set_name, method, seed, {})
        if best := load_found()[set_name]["winners"].get(method):
            models[f"{method}, searched"] = recipe(set_name, method, seed, best)
    paths = questions(set_name, "test")
    for label, model in models.items():
        if label not in load_found()[set_name]["scores"].get(str(seed), {}):
            scores = answers(set_name, label, model, paths)
            keep(set_name, scores, "scores", str(seed), label)
            print(f"{set_name}, seed {seed}: {label}: {scores}", flush=True)


def answers(set_name: str, label: str, model: Any, paths: Sequence[Path]) -> dict[str, Any]:
    """For each skill, `1` and `0` for right and wrong answers; the perplexity of general text."""
    out = FOLDER / set_name / "scores"
    shutil.rmtree(out, ignore_errors=True)
    source = weightsmith.Recipe.from_dict(model) if isinstance(model, dict) else model
    result = weightsmith.evaluate({label: source}, out, questions=list(paths), texts=[GENERAL])
    scores: dict[str, Any] = {}
    for task in result.suites[0].models[0].values.values():
        text = task.entry.name == GENERAL.stem
        right = "".join(f"{answer[0]:.0f}" for answer in task.answers.values())
        scores[task.entry.name] = round(task.value, 3) if text else right
    return scores


def pairs(set_name: str, seed: int) -> None:
    """Two fine-tunes at a time: how they moved, and what a few methods give."""
    tested = dict(zip(SKILLS[set_name], questions(set_name, "test"), strict=True))
    for skills in combinations(SKILLS[set_name], 2):
        name = "+".join(skills)
        of_seed = load_found()[set_name]["pairs"].get(str(seed), {})
        if "movement" not in of_seed.get(name, {}):
            adapters = [f"{base_model()}+{adapter(set_name, seed, skill)}" for skill in skills]
            movement = weightsmith.inspect([str(base_model()), *adapters], stats=True).movement
            assert movement is not None
            (pair,) = movement.pairs
            named = replace(movement, cells=(), names=skills, pairs=(replace(pair, first=skills[0], second=skills[1]),))
            keep(set_name, asdict(named), "pairs", str(seed), name, "movement")
        for method in OF_PAIRS:
            if method not in of_seed.get(name, {}):
                model = recipe(set_name, method, seed, {}, skills)
                scores = answers(set_name, method, model, [tested[skill] for skill in skills])
                keep(set_name, scores, "pairs", str(seed), name, method)
                print(f"{set_name}, seed {seed}, {name}: {method}: {scores}", flush=True)


def keep(set_name: str, value: Any, *keys: str) -> None:
    found = load_found()
    place = found[set_name]
    for key in keys[:-1]:
        place = place.setdefault(key, {})
    place[keys[-1]] = value
    save_found(found)


def task_result(skill: str, answers: str) -> TaskResult:
    right = [float(answer) for answer in answers]
    entry, mean = SuiteEntry(questions=skill, alias=skill), sum(right) / len(right)
    numbered = {(skill, number): (one, 1.0) for number, one in enumerate(right)}
    return TaskResult(entry, "exact_match", "none", 100 * mean, None, numbered, True, None, 100.0)


def comparisons_of(set_name: str, scores: dict[str, Any]) -> tuple[dict[str, list[TaskResult]], dict[str, Comparison]]:
    """(label -> the result of each skill and seed; label -> the paired difference to task arithmetic of the same kind),
    of labels that every seed has."""
    labels = set.intersection(*(set(of_seed) for of_seed in scores.values()))
    asked = {
        label: [task_result(skill, scores[seed][label][skill]) for seed in scores for skill in SKILLS[set_name]]
        for label in labels
    }
    compared = []
    for label, tasks in sorted(asked.items()):
        plain = PLAIN + (", searched" if label.endswith(", searched") else "")
        if label != plain and label.partition(",")[0] in SPACES and plain in asked:
            weights = [1 / len(tasks)] * len(tasks)
            compared.append(compare_averages(tasks, asked[plain], weights, label, plain, "all skills"))
    return asked, {comparison.label: comparison for comparison in corrected(compared)}


def table() -> None:
    """The page's tables, in place of those between its marks."""
    parts, found = [], load_found()
    for set_name, of_set in found.items():
        scores = of_set["scores"]
        if not scores:
            continue
        asked, compared = comparisons_of(set_name, scores)
        skills = SKILLS[set_name]
        parts.append(f"### `{set_name}`\n\n{of_set['machine']}. Seeds: {', '.join(scores)}.\n")
        parts.append(
            "| method | mean | " + " | ".join(skills) + " | perplexity | against task arithmetic | p (Holm) | |"
        )
        parts.append("| --- | ---: |" + " ---: |" * (len(skills) + 3) + " --- |")
        for label, tasks in sorted(asked.items(), key=lambda item: (-sum(task.value for task in item[1]), item[0])):
            mean = sum(task.value for task in tasks) / len(tasks)
            by_skill = [[task.value for task in tasks if task.entry.name == skill] for skill in skills]
            values = " | ".join(f"{sum(own) / len(own):.0f}" for own in by_skill)
            perplexity = sum(scores[seed][label]["general"] for seed in scores) / len(scores)
            one = compared.get(label)
            cells = f"{one.difference:+.1f} | {one.p_holm:.3g} | {one.verdict}" if one else " | | "
            parts.append(f"| {label} | {mean:.1f} | {values} | {perplexity:.2f} | {cells} |")
        winners = [f"`{method}` {_shown(best)}" for method, best in of_set["winners"].items()]
        parts.append(f"\nFound by the searches: {'; '.join(winners)}.\n" if winners else "")
    parts += suggestions(found)
    page = PAGE.read_text()
    begin, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    PAGE.write_text(page[:begin] + "\n\n" + "\n".join(parts) + "\n" + page[end:])


def suggestions(found: dict[str, Any]) -> list[str]:
    """How often nothing was better, by more than chance, than the first method that `inspect --stats` suggests."""
    lines, held, highest, always = [], 0, 0, Counter[str]()
    for set_name, of_set in found.items():
        for seed, of_seed in of_set["pairs"].items():
            for name, of_pair in of_seed.items():
                tasks = {
                    method: [task_result(skill, of_pair[method][skill]) for skill in name.split("+")]
                    for method in OF_PAIRS
                    if method in of_pair
                }
                if len(tasks) < len(OF_PAIRS) or "movement" not in of_pair:
                    continue
                means = {method: sum(task.value for task in own) / len(own) for method, own in tasks.items()}
                movement = TypeAdapter(Movement).validate_python(of_pair["movement"])
                suggestion = suggest(movement)
                assert suggestion is not None
                first, best = suggestion.methods[0], max(means, key=lambda method: means[method])
                not_beaten = {method for method in OF_PAIRS if not beaten(method, tasks)}
                held += (right := first in not_beaten)
                always.update(not_beaten)
                highest += means[first] == means[best]
                lines.append(
                    f"| {set_name}, seed {seed} | {name} | {movement.pairs[0].cosine:+.3f} | `{first}` | "
                    f"{means[first]:.0f} | {means[PLAIN]:.0f} | `{best}` {means[best]:.0f} | "
                    f"{'right' if right else 'wrong'} |"
                )
    if not lines:
        return []
    head = ["### What `inspect --stats` suggests, on pairs of fine-tunes\n"]
    head += [
        "| set | pair | cosine | suggested first | its mean | task arithmetic's | best of the methods tried | |",
        "| --- | --- | ---: | --- | ---: | ---: | --- | --- |",
    ]
    return [
        *head,
        *lines,
        f"\nRight {held} times of {len(lines)}: no method tried, all at their defaults, was better by more than chance; "
        f"{highest} times none had a higher mean. Always taking the same one would have been right: "
        f"{', '.join(f'`{method}` {always[method]}' for method in OF_PAIRS)} times.\n",
    ]


def beaten(method: str, tasks: dict[str, list[TaskResult]]) -> bool:
    compared = [
        compare_averages(own, tasks[method], [1 / len(own)] * len(own), other, method, "both skills")
        for other, own in tasks.items()
        if other != method
    ]
    return any(comparison.verdict == "better" for comparison in corrected(compared))


def _shown(best: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in best.items()
    )


BEGIN, END = "<!-- measured -->", "<!-- end -->"


def prepare(set_name: str, seed: int) -> None:
    """The adapters, trained where they are not there."""
    if set_name == "hard":
        hard_set.main(FOLDER / "hard-set", [seed])
    check_adapters(set_name, seed)


def everything() -> None:
    for set_name, seeds in SEEDS.items():
        for seed in seeds:
            prepare(set_name, seed)
        search(set_name, [])
        for seed in seeds:
            score(set_name, seed, [])
            pairs(set_name, seed)
    table()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["table"]:
            table()
        case ["everything"]:
            everything()
        case ["search", set_name, *methods]:
            prepare(set_name, 0)
            search(set_name, methods)
        case ["score", set_name, seed, *methods]:
            prepare(set_name, int(seed))
            score(set_name, int(seed), methods)
        case ["pairs", set_name, seed]:
            prepare(set_name, int(seed))
            pairs(set_name, int(seed))
        case _:
            sys.exit(__doc__)
