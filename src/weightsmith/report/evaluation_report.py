"""`report.html` of an evaluation: what was asked of which models, scores, and what differs by more than chance."""

from __future__ import annotations

from pathlib import Path

from weightsmith.evaluation.results.evaluation import Evaluation
from weightsmith.files.write_whole import write_whole
from weightsmith.model_card.provenance import listed
from weightsmith.report.render_template import render_template

PAGE = "report.html"


def write_evaluation_report(evaluation: Evaluation, folder: Path) -> Path:
    """The page, in `folder`. Raises ReportError where jinja2 or matplotlib is not installed.

    >>> write_evaluation_report(ws.evaluate({"base": "base"}, questions=["skill.jsonl"]), Path(".")).name
    'report.html'
    """
    values = {
        "title": f"Evaluation of {listed(evaluation.labels)}",
        "warnings": _warnings(evaluation),
        "findings": _findings(evaluation),
        "evaluation": evaluation.tables(),
        "models": evaluation.models,
        "how": _how(evaluation),
    }
    return write_whole(folder / PAGE, render_template("evaluation_report.html.j2", values))


def _warnings(evaluation: Evaluation) -> list[str]:
    warnings = []
    for label in evaluation.labels:
        for suite in evaluation.suites:
            if cut := sum(suite.model(label).truncated.values()):
                requests = "1 request was" if cut == 1 else f"{cut} requests were"
                warnings.append(
                    f"{label}, {suite.suite.name}: {requests} longer than the context window and lost the beginning"
                )
    return warnings


def _findings(evaluation: Evaluation) -> list[str]:
    """Each pair of models in words: what is better, what is worse, where no difference was seen."""
    findings = []
    for label in evaluation.labels:
        ours = [one for one in evaluation.comparisons if one.label == label]
        for other in dict.fromkeys(one.other for one in ours):
            found: dict[str, list[str]] = {"better": [], "worse": [], "no difference seen": []}
            for one in ours:
                if one.other == other:
                    found[one.verdict if one.verdict in found else "no difference seen"].append(one.on)
            in_words = "; ".join(f"{verdict} on {listed(names)}" for verdict, names in found.items() if names)
            findings.append(f"{label} against {other}: {in_words}")
    return findings


def _how(evaluation: Evaluation) -> list[list[str]]:
    """What was set, as a table."""
    settings = evaluation.settings
    rows = [
        ["questions of each task", f"the first {settings.limit}" if settings.limit else "all"],
        ["few-shot", "as the tasks say" if settings.fewshot is None else str(settings.fewshot)],
        ["chat template", "yes" if settings.chat else "as the tasks say"],
        ["system prompt", settings.system or "none"],
        ["seed", str(settings.seed)],
        ["device", settings.device],
    ]
    if settings.budget:
        rows[0][1] = f"as many as fit into {settings.budget:.0f} seconds"
    return [["setting", "value"], *rows]
