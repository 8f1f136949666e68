"""The files that a search writes: `best.yml`, `trials.csv`, `summary.json`, `report.html`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weightsmith.files.inputs.yaml_file import YamlFile, dump_yaml
from weightsmith.files.write_whole import write_whole
from weightsmith.recipe_search.candidate_recipe import portable_recipe
from weightsmith.recipe_search.objectives import Objective, value
from weightsmith.recipe_search.report.final_scores import ANSWERS, FinalScores
from weightsmith.recipe_search.report.search_report import SearchFacts, search_report
from weightsmith.recipe_search.space import Space
from weightsmith.recipe_search.trials.study import DATABASE, Study
from weightsmith.recipe_search.trials.trial import Trial, by_score

_WRITTEN = (f"{DATABASE}*", f"{ANSWERS}*", "best.yml", "trials.csv", "summary.json", "report.html", "top-[0-9]*.yml")


def write_results(
    folder: Path,
    file: YamlFile,
    study: Study,
    spaces: Sequence[Space],
    objectives: Sequence[Objective],
    best: Trial,
    final: FinalScores,
    facts: SearchFacts,
) -> list[Path]:
    """Raises ReportError."""
    head = f"# Candidate {best.number} of {len(study.trials)} of {file.path.name}: the best one found.\n"
    contents = {
        "best.yml": head + dump_yaml(portable_recipe(best.tree, file.path.parent)),
        "trials.csv": _table(study.trials, spaces, objectives),
        "summary.json": json.dumps(_summary(best, objectives, final), indent=2) + "\n",
        "report.html": search_report(facts, study, spaces, objectives, best, final),
    }
    return [write_whole(folder / name, content) for name, content in contents.items()]


def discard(folder: Path) -> None:
    """Everything that a search wrote there, but for candidates that it exported as models."""
    for name in _WRITTEN:
        for path in folder.glob(name):
            path.unlink()


def write_top(folder: Path, search_file: Path, trials: Sequence[Trial], count: int) -> list[Path]:
    """`top-1.yml`, ...: the recipes of the best complete candidates, best first."""
    written = []
    for rank, trial in enumerate(by_score(trials)[:count], start=1):
        recipe = dump_yaml(portable_recipe(trial.tree, search_file.parent))
        written.append(write_whole(folder / f"top-{rank}.yml", f"# Candidate {trial.number}\n" + recipe))
    return written


def _table(trials: Sequence[Trial], spaces: Sequence[Space], objectives: Sequence[Objective]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(
        [
            "number",
            "state",
            "default",
            "score",
            *(o.name for o in objectives),
            *(s.name for s in spaces),
            "questions",
            "merge_seconds",
            "ask_seconds",
            "error",
        ]
    )
    for trial in trials:
        values = (
            [value(o, a) if a else "" for o, a in zip(objectives, trial.answers, strict=True)]
            if trial.answers
            else [""] * len(objectives)
        )
        writer.writerow(
            [
                trial.number,
                trial.state,
                trial.default or "",
                "" if trial.score is None else trial.score,
                *values,
                *(trial.params.get(space.name, "") for space in spaces),
                sum(map(len, trial.answers)),
                round(trial.merge_seconds, 3),
                round(trial.ask_seconds, 3),
                trial.error,
            ]
        )
    return text.getvalue()


def _summary(best: Trial, objectives: Sequence[Objective], final: FinalScores) -> dict[str, Any]:
    return {
        "best": {"number": best.number, "score": best.score, "parameters": best.params},
        "candidates": [
            {
                "label": candidate.label,
                "search_score": candidate.seen_score,
                "held_out_score": candidate.score,
                "search": {o.name: value(o, a) for o, a in zip(objectives, candidate.seen, strict=True)},
                "held_out": {o.name: value(o, a) for o, a in zip(objectives, candidate.held_out, strict=True)},
            }
            for candidate in final.candidates
        ],
        "gains": [
            {
                "over": g.other,
                "difference": g.difference,
                "low": g.low,
                "high": g.high,
                "p": g.p,
                "p_holm": g.p_holm,
                "verdict": g.verdict,
            }
            for g in final.gains
        ],
    }
