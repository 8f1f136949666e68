"""Does a search find more than the default recipes, and with which sampler? The demo's base and three adapters, 60 candidates each.

    make bench-search-demo                                  # everything: nine searches, the test questions, the page
    python benchmarks/search_demo_models.py search tpe 1    # one search; one that was interrupted goes on
    python benchmarks/search_demo_models.py test            # winners, defaults and adapters on questions that no search was given
    python benchmarks/search_demo_models.py page            # docs/search-benchmarks.md from what was found

Objectives: the perplexity of right answers for each of the demo's skills, asked in other wordings than the adapters were trained on
(unseen_wordings.py; the demo's own questions are all answered by the default recipes already), and that of the demo's general text.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sysconfig
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import optuna
import typer
from measured import processor
from unseen_wordings import SKILLS, write_questions

from weightsmith.demo.demo_run import PACKAGE, base_model
from weightsmith.evaluate.benchmark import fast_precision
from weightsmith.evaluate.compare import bootstrap_p
from weightsmith.report.facts import machine
from weightsmith.report.markdown_table import markdown_table
from weightsmith.report.svg_figure import svg_figure
from weightsmith.search.search_report import history_plot
from weightsmith.search.study import Trial, read_trials
from weightsmith.search.trial_run import Setup, TrialOrder, run_trial

app = typer.Typer(add_completion=False, help=__doc__, rich_markup_mode=None)
FOLDER, DOCS = Path("build/bench-search"), Path("docs")
SAMPLERS, SEEDS, TRIALS = ("tpe", "cmaes", "random"), (1, 2, 3), 60
ASKED, HELD_OUT = 400, 0.75  # questions per skill that a search is given, and the share of them that it does not see
TESTED = 300  # asked at the end
COLORS = {"tpe": "C0", "cmaes": "C1", "random": "C7"}
PROGRAM = Path(sysconfig.get_path("scripts")) / "weightsmith"


@app.command()
def search(
    sampler: Annotated[str, typer.Argument(help="tpe, cmaes or random.")],
    seed: Annotated[int, typer.Argument(help="Of the sampler and of what is held out.")],
    threads: Annotated[int | None, typer.Option(help="All cores without it.")] = None,
) -> None:
    """One search, unless it has been made."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not (FOLDER / "records.jsonl").exists():
        write_questions(FOLDER, ASKED + TESTED)
    path, out = FOLDER / f"{sampler}-{seed}.yml", FOLDER / f"{sampler}-{seed}"
    path.write_text(json.dumps(search_file(sampler, seed), indent=1))
    if (out / "summary.json").exists():
        return
    command: list[str] = [str(PROGRAM), "search", str(path), str(out)]
    command += ["--resume"] * (out / "study.db").exists() + (["--threads", str(threads)] if threads else [])
    started = time.monotonic()
    subprocess.run(command, check=True)
    spent = out / "sessions.json"
    sessions = json.loads(spent.read_text()) if spent.exists() else []
    spent.write_text(json.dumps([*sessions, {"seconds": time.monotonic() - started, "threads": threads}]))


def search_file(sampler: str, seed: int) -> dict[str, Any]:
    weight, base = {"uniform": [0.4, 1.6]}, str(base_model())
    parts = [{"filter": "self_attn", "value": weight}, {"value": weight}]
    parameters = {"weight": parts, "density": {"uniform": [0.2, 1.0]}}
    models = [{"model": f"{base}+{PACKAGE / 'adapters' / skill}", "parameters": parameters} for skill in SKILLS]
    recipe = {
        "merge_method": {"choice": ["ties", "task_arithmetic"]}, "base_model": base, "models": models,
        "parameters": {"normalize": False}, "dtype": "float32",
    }  # fmt: skip
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
    found: dict[str, list[list[float]]] = {}
    file = search_file("random", 0) | {"held_out": 0.001}
    file["objective"] = [{"questions": f"test-{skill}.jsonl"} for skill in SKILLS]
    path = FOLDER / "test.yml"
    path.write_text(json.dumps(file))
    setup = Setup(path.absolute(), path.read_text(), Path.cwd(), FOLDER, len(os.sched_getaffinity(0)), fast_precision())
    for label, tree in _tested().items():
        result = run_trial(setup, TrialOrder(tree, race=False))
        found[label] = [[right for _, (right, _) in sorted(answers.items())] for answers in result.answers]
        print(label, [f"{statistics.mean(rights):.1%}" for rights in found[label]], flush=True)
    (FOLDER / "test.json").write_text(json.dumps(found))


def _tested() -> dict[str, dict[str, Any]]:
    """Label -> recipe; the default recipes are the same in all searches."""
    base = str(base_model())
    models = {"base": base} | {skill: f"{base}+{PACKAGE / 'adapters' / skill}" for skill in SKILLS}
    found = {name: {"merge_method": "passthrough", "models": [{"model": model}]} for name, model in models.items()}
    for sampler, seed in _finished():
        trials = _trials(sampler, seed)
        found |= {trial.default: trial.tree for trial in trials if trial.default}
        found[f"{sampler}, seed {seed}"] = next(
            t.tree for t in trials if t.number == _summary(sampler, seed)["best"]["number"]
        )
    return found


def _finished() -> list[tuple[str, int]]:
    return [(s, k) for s in SAMPLERS for k in SEEDS if (FOLDER / f"{s}-{k}" / "summary.json").exists()]


def _summary(sampler: str, seed: int) -> dict[str, Any]:
    return json.loads((FOLDER / f"{sampler}-{seed}" / "summary.json").read_text())


def _trials(sampler: str, seed: int) -> list[Trial]:
    path = FOLDER / f"{sampler}-{seed}" / "study.db"
    return read_trials(optuna.load_study(study_name=None, storage=f"sqlite:///{path}"))


@app.command()
def page() -> None:
    """Write docs/search-benchmarks.md, docs/search-samplers.svg and docs/search-history.svg."""
    text = [
        "# Search, measured", "", f"{processor()}; {machine()}", "",
        f"`make bench-search-demo` writes this page: the demo's base and its three adapters, {TRIALS} candidates per search; weights of",
        "each adapter in attention and elsewhere and its density, TIES or task arithmetic: 10 spaces. Objectives: nats per token of right",
        f"answers for each skill, {ASKED - round(ASKED * HELD_OUT)} questions each, and, with half the weight, of the demo's general text; {round(ASKED * HELD_OUT)} questions of each skill",
        "are held out. They use wordings that the adapters were not trained on: what the demo asks is all answered by default recipes already.", "",
        "## On what was held out", "",
    ]  # fmt: skip
    rows = [["sampler, seed", "candidates, behind", "minutes", "best default", "winner", "difference (95 %)", "p"]]
    for sampler, seed in _finished():
        told, trials = _summary(sampler, seed), _trials(sampler, seed)
        first = next(gain for gain in told["gains"] if gain["over"].startswith("best default"))
        scores = {one["label"]: one["held_out_score"] for one in told["candidates"]}
        sessions = json.loads((FOLDER / f"{sampler}-{seed}" / "sessions.json").read_text())
        minutes = f"{sum(one['seconds'] for one in sessions) / 60:.1f}" + (
            " (1 thread)" if sessions[0]["threads"] else ""
        )
        rows.append([
            f"{sampler}, {seed}", f"{len(trials)}, {sum(t.state == 'pruned' for t in trials)}", minutes,
            f"{scores[first['over']]:.4f}", f"{next(iter(scores.values())):.4f}",
            f"{first['difference']:+.4f} ({first['low']:+.4f} to {first['high']:+.4f})", f"{first['p']:.4f}",
        ])  # fmt: skip
    text += [markdown_table(rows), "", "Minutes are those of the whole command, what was held out included.", ""]
    text += ["## Samplers at equal cost", "", "![Best score so far against cost](search-samplers.svg)", ""]
    text += [
        "Thin: each seed; thick: their mean. The cost of a candidate is the share of all questions that it was asked.",
        "",
    ]
    if (FOLDER / "test.json").exists():
        text += _tested_table()
    (DOCS / "search-benchmarks.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    (DOCS / "search-samplers.svg").write_text(svg_figure(_draw_samplers, (7.0, 4.0)), encoding="utf-8")
    (DOCS / "search-history.svg").write_text(history_plot(_trials(*_finished()[0])), encoding="utf-8")


def _tested_table() -> list[str]:
    found: dict[str, list[list[float]]] = json.loads((FOLDER / "test.json").read_text())
    defaults = [name for name in found if "," in name and "seed" not in name]
    best = max(defaults, key=lambda name: np.concatenate(found[name]).mean())
    rows = [["", *SKILLS, "all", f"against {best}", "p"]]
    for name, skills in found.items():
        ours, theirs = np.concatenate(skills), np.concatenate(found[best])
        gaps = ours - theirs
        drawn = gaps[np.random.default_rng(0).integers(0, len(gaps), (10_000, len(gaps)))].mean(1)
        shown = [f"{gaps.mean():+.1%}", f"{bootstrap_p(drawn):.4f}"] if name != best else ["", ""]
        rows.append([name, *(f"{statistics.mean(rights):.1%}" for rights in skills), f"{ours.mean():.1%}", *shown])
    return [
        "## Exact answers to questions that no search was given", "",
        f"{TESTED} per skill; paired bootstrap against the default recipe that is best here.", "", markdown_table(rows), "",
    ]  # fmt: skip


def _draw_samplers(figure: Any) -> None:
    axis = figure.subplots()
    for sampler in SAMPLERS:
        curves = [best_so_far(_trials(sampler, seed)) for one, seed in _finished() if one == sampler]
        if not curves:
            continue
        costs = np.linspace(0, min(cost[-1] for cost, _ in curves), 400)
        lines = [
            np.array([scores[np.searchsorted(cost, c, "right") - 1] if c >= cost[0] else np.nan for c in costs])
            for cost, scores in curves
        ]
        for line in lines:
            axis.plot(costs, line, color=COLORS[sampler], lw=0.8, alpha=0.5)
        axis.plot(costs, np.mean(lines, axis=0), color=COLORS[sampler], lw=2.2, label=sampler)
    axis.set(xlabel="cost, in candidates that were asked everything", ylabel="best score so far (what the search saw)")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)


def best_so_far(trials: list[Trial]) -> tuple[np.ndarray, np.ndarray]:
    """Cost so far and best score, after each candidate from the first complete one on."""
    whole = max(sum(map(len, trial.answers)) for trial in trials)
    costs = np.cumsum([sum(map(len, trial.answers)) / whole for trial in trials])
    scores = [trial.score if trial.state == "complete" and trial.score is not None else -np.inf for trial in trials]
    return costs, np.maximum.accumulate(scores)


@app.command()
def everything() -> None:
    """All searches, the test, the page."""
    for sampler in SAMPLERS:
        for seed in SEEDS:
            search(sampler, seed)
    test()
    page()


if __name__ == "__main__":
    app()
