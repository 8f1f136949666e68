"""Does a search find more than the default recipes, and with which sampler? The demo's base and three adapters, 60
candidates each.

    make bench-search-demo                                  # everything: nine searches, the test questions, the ablation, the page
    python benchmarks/search_demo_models.py search tpe 1    # one search; one that was interrupted goes on
    python benchmarks/search_demo_models.py test            # winners, defaults and adapters on questions that no search used
    python benchmarks/search_demo_models.py ablation        # docs/search-ablation.svg: the first winner without each adapter, block by block
    python benchmarks/search_demo_models.py page            # docs/search-benchmarks.md from docs/search-benchmarks.json

Objectives: the perplexity of right answers for each of the demo's skills, asked in other wordings than the adapters
were trained on (unseen_wordings.py; the demo's own questions are all answered by the default recipes already), and that
of the demo's general text. What was measured is kept in docs/search-benchmarks.json, a search at a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
import time
from pathlib import Path
from typing import Annotated, Any

import optuna
import typer
from measured import processor
from search_demo_page import write_ablation_picture, write_page
from unseen_wordings import SKILLS, write_questions

import weightsmith
from weightsmith.demo.run_demo import PACKAGE, base_model
from weightsmith.machine import describe_machine, fast_precision
from weightsmith.recipe_search.trials.run_trial import Setup, TrialJob, run_trial
from weightsmith.recipe_search.trials.study import read_trials

app = typer.Typer(add_completion=False, help=__doc__, rich_markup_mode=None)
FOLDER, KEPT = Path("build/bench-search"), Path("docs/search-benchmarks.json")
SAMPLERS, SEEDS, TRIALS = ("tpe", "cmaes", "random"), (1, 2, 3), 60
ASKED, HELD_OUT = 400, 0.75  # questions per skill that a search is given, and the share of them that it does not see
TESTED = 300  # asked at the end
ABLATED = 100  # of them, for the ablation
PROGRAM = Path(sysconfig.get_path("scripts")) / "weightsmith"


@app.command()
def search(
    sampler: Annotated[str, typer.Argument(help="tpe, cmaes or random.")],
    seed: Annotated[int, typer.Argument(help="Seed of the sampler and of the held-out split.")],
    threads: Annotated[int | None, typer.Option(help="All cores without it.")] = None,
) -> None:
    """One search, unless it has been made."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not (FOLDER / "records.jsonl").exists():
        write_questions(FOLDER, ASKED + TESTED)
    path, out = FOLDER / f"{sampler}-{seed}.yml", FOLDER / f"{sampler}-{seed}"
    path.write_text(json.dumps(search_file(sampler, seed), indent=1))
    command: list[str] = [str(PROGRAM), "search", str(path), str(out)]
    command += ["--resume"] * (out / "study.db").exists() + (["--threads", str(threads)] if threads else [])
    if not (out / "summary.json").exists():
        started = time.monotonic()
        subprocess.run(command, check=True)
        spent = out / "sessions.json"
        sessions = json.loads(spent.read_text()) if spent.exists() else []
        spent.write_text(json.dumps([*sessions, {"seconds": time.monotonic() - started, "threads": threads}]))
    keep(f"{sampler}, {seed}", told_by(out))


def told_by(out: Path) -> dict[str, Any]:
    """What the page needs of a search."""
    summary, sessions = json.loads((out / "summary.json").read_text()), json.loads((out / "sessions.json").read_text())
    trials = read_trials(optuna.load_study(study_name="weightsmith", storage=f"sqlite:///{out / 'study.db'}"))
    whole = max(sum(map(len, trial.answers)) for trial in trials)
    best = next(trial.tree for trial in trials if trial.number == summary["best"]["number"])
    return {
        "where": f"{processor()}; {describe_machine()}",
        "precision": fast_precision(),
        "threads": sessions[0]["threads"],
        "seconds": round(sum(one["seconds"] for one in sessions)),
        "asked": [round(sum(map(len, trial.answers)) / whole, 4) for trial in trials],
        "scores": [trial.score if trial.state == "complete" else None for trial in trials],
        "candidates": summary["candidates"],
        "gains": summary["gains"],
        "winner": portable(best),
        "defaults": {trial.default: portable(trial.tree) for trial in trials if trial.default},
    }


def keep(key: str, record: Any) -> None:
    records = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    KEPT.write_text(json.dumps(dict(sorted((records | {key: record}).items()))) + "\n")


def portable(tree: dict[str, Any]) -> str:
    return json.dumps(tree).replace(str(base_model()), "{base}").replace(str(PACKAGE), "{package}")


def whole(tree: str) -> str:
    return tree.replace("{base}", str(base_model())).replace("{package}", str(PACKAGE))


def search_file(sampler: str, seed: int) -> dict[str, Any]:
    weight, base = {"uniform": [0.4, 1.6]}, str(base_model())
    parts = [{"filter": "self_attn", "value": weight}, {"value": weight}]
    parameters = {"weight": parts, "density": {"uniform": [0.2, 1.0]}}
    models = [{"model": f"{base}+{PACKAGE / 'adapters' / skill}", "parameters": parameters} for skill in SKILLS]
    recipe = {
        "merge_method": {"choice": ["ties", "task_arithmetic"]},
        "base_model": base,
        "models": models,
        "parameters": {"normalize": False},
        "dtype": "float32",
    }
    skills = [{"questions": f"{skill}.jsonl", "metric": "perplexity", "limit": ASKED} for skill in SKILLS]
    text = {"perplexity": str(PACKAGE / "data" / "general.txt"), "weight": 0.5}
    ends = {"sampler": sampler, "trials": TRIALS, "seed": seed, "held_out": HELD_OUT}
    return {"recipe": recipe, "objective": [*skills, text]} | ends


@app.command()
def test() -> None:
    """Exact answers of each winner, of the default recipes, base and adapters, on the other questions."""
    for skill in SKILLS:
        rows = (FOLDER / f"{skill}.jsonl").read_text().splitlines(keepends=True)
        (FOLDER / f"test-{skill}.jsonl").write_text("".join(rows[ASKED:]))
    records: dict[str, list[str]] = {}
    file = search_file("random", 0) | {"held_out": 0.001}
    file["objective"] = [{"questions": f"test-{skill}.jsonl"} for skill in SKILLS]
    path = FOLDER / "test.yml"
    path.write_text(json.dumps(file))
    setup = Setup(path.absolute(), path.read_text(), Path.cwd(), FOLDER, len(os.sched_getaffinity(0)), fast_precision())
    for label, tree in _tested().items():
        result = run_trial(setup, TrialJob(json.loads(whole(tree)), race=False))
        records[label] = ["".join(str(int(right)) for _, (right, _) in sorted(one.items())) for one in result.answers]
        print(label, [f"{rights.count('1') / len(rights):.1%}" for rights in records[label]], flush=True)
    keep("test", records)


def _tested() -> dict[str, str]:
    """Label -> recipe; the default recipes are the same in all searches."""
    models = {"base": "{base}"} | {skill: "{base}+{package}/adapters/" + skill for skill in SKILLS}
    records = {k: json.dumps({"merge_method": "passthrough", "models": [{"model": m}]}) for k, m in models.items()}
    searches = {key: record for key, record in json.loads(KEPT.read_text()).items() if key != "test"}
    for record in searches.values():
        records |= record["defaults"]
    return records | {f"winner of {key}": record["winner"] for key, record in searches.items()}


@app.command()
def ablation() -> None:
    """Which layers of which adapter carry which skill, in the first winner: docs/search-ablation.svg."""
    recipe, files = FOLDER / "winner.yml", [FOLDER / "ablated" / f"{skill}.jsonl" for skill in SKILLS]
    files[0].parent.mkdir(exist_ok=True)
    recipe.write_text(whole(json.loads(KEPT.read_text())[f"{SAMPLERS[0]}, {SEEDS[0]}"]["winner"]))
    for skill, path in zip(SKILLS, files, strict=True):
        rows = (FOLDER / f"{skill}.jsonl").read_text().splitlines(keepends=True)
        path.write_text("".join(rows[ASKED : ASKED + ABLATED]))
    records = weightsmith.ablate(
        recipe,
        FOLDER / "ablation",
        questions=[*map(str, files)],
        metric="perplexity",
        texts=[str(PACKAGE / "data" / "general.txt")],
        force=True,
        log=print,
    )
    write_ablation_picture(records)


@app.command()
def page() -> None:
    """Write docs/search-benchmarks.md and docs/search-samplers.svg."""
    write_page(json.loads(KEPT.read_text()), list(SKILLS), ASKED - round(ASKED * HELD_OUT), round(ASKED * HELD_OUT))


@app.command()
def everything() -> None:
    """All searches, the test, the ablation, the page."""
    for sampler in SAMPLERS:
        for seed in SEEDS:
            search(sampler, seed)
    test()
    ablation()
    page()


if __name__ == "__main__":
    app()
