"""What a search leaves behind: `best.yml`, `trials.csv`, `summary.json`, `report.html`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weightsmith.recipe.yaml_file import YamlFile
from weightsmith.search.candidate_recipe import recipe_text
from weightsmith.search.final_scores import KEPT, FinalScores
from weightsmith.search.objectives import Objective, value
from weightsmith.search.search_report import search_report
from weightsmith.search.space import Space
from weightsmith.search.study import DATABASE, Study
from weightsmith.search.trial import Trial, by_score

_WRITTEN = (f"{DATABASE}*", KEPT, "best.yml", "trials.csv", "summary.json", "report.html", "top-[0-9]*.yml")


def write_results(
    folder: Path, file: YamlFile, study: Study, spaces: Sequence[Space], objectives: Sequence[Objective], best: Trial,
    final: FinalScores, count: int,
) -> list[Path]:  # fmt: skip
    """Raises ReportError."""
    head = f"# Candidate {best.number} of {count} of {file.path.name}: the best one found.\n"
    return write_whole(
        folder,
        {
            "best.yml": head + recipe_text(_portable(best.tree, file.path.parent)),
            "trials.csv": _table(study.trials, spaces, objectives),
            "summary.json": json.dumps(_summary(best, objectives, final), indent=2) + "\n",
            "report.html": search_report(file, study, spaces, objectives, best, final),
        },
    )


def write_whole(folder: Path, contents: Mapping[str, str]) -> list[Path]:
    """Name -> text; each file appears when it is whole."""
    written = []
    for name, content in contents.items():
        partial = folder / f".{name}.partial"
        partial.write_text(content, encoding="utf-8")
        partial.replace(folder / name)
        written.append(folder / name)
    return written


def discard(folder: Path) -> None:
    """Everything that a search wrote there, but for candidates that it exported as models."""
    for name in _WRITTEN:
        for path in folder.glob(name):
            path.unlink()


def write_top(folder: Path, search_file: Path, trials: Sequence[Trial], count: int) -> list[Path]:
    """`top-1.yml`, ...: the recipes of the best complete candidates, best first."""
    written = []
    for place, trial in enumerate(by_score(trials)[:count], start=1):
        path = folder / f"top-{place}.yml"
        path.write_text(
            f"# Candidate {trial.number}\n" + recipe_text(_portable(trial.tree, search_file.parent)), encoding="utf-8"
        )
        written.append(path)
    return written


def _portable(node: Any, home: Path) -> Any:
    """Model references that are relative to the search file's folder, as absolute paths: a recipe is read in another folder."""
    if isinstance(node, dict):
        return {
            key: _absolute(value, home)
            if key in ("model", "base_model") and isinstance(value, str)
            else _portable(value, home)
            for key, value in node.items()
        }
    return [_portable(value, home) for value in node] if isinstance(node, list) else node


def _absolute(reference: str, home: Path) -> str:
    parts = []
    for part in reference.split("+"):
        here, there = Path(part), home / part
        parts.append(str((here if here.exists() else there).resolve()) if here.exists() or there.exists() else part)
    return "+".join(parts)


def _table(trials: Sequence[Trial], spaces: Sequence[Space], objectives: Sequence[Objective]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([
        "number", "state", "default", "score", *(o.name for o in objectives), *(s.name for s in spaces), "questions",
        "merge_seconds", "ask_seconds", "error",
    ])  # fmt: skip
    for trial in trials:
        found = (
            [value(o, a) if a else "" for o, a in zip(objectives, trial.answers, strict=True)]
            if trial.answers
            else [""] * len(objectives)
        )
        writer.writerow([
            trial.number, trial.state, trial.default or "", "" if trial.score is None else trial.score, *found,
            *(trial.params.get(space.name, "") for space in spaces), sum(map(len, trial.answers)),
            round(trial.merge_seconds, 3), round(trial.ask_seconds, 3), trial.error,
        ])  # fmt: skip
    return text.getvalue()


def _summary(best: Trial, objectives: Sequence[Objective], final: FinalScores) -> dict[str, Any]:
    return {
        "best": {"number": best.number, "score": best.score, "parameters": best.params},
        "candidates": [
            {
                "label": one.label, "search_score": one.seen_score, "held_out_score": one.score,
                "search": {o.name: value(o, a) for o, a in zip(objectives, one.seen, strict=True)},
                "held_out": {o.name: value(o, a) for o, a in zip(objectives, one.held_out, strict=True)},
            }
            for one in final.candidates
        ],
        "gains": [
            {"over": g.other, "difference": g.difference, "low": g.low, "high": g.high, "p": g.p, "verdict": g.verdict}
            for g in final.gains
        ],
    }  # fmt: skip
