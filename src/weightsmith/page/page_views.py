"""What the page shows, as HTML: every value that comes from a model, a recipe or a folder is escaped."""

from __future__ import annotations

import html
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from weightsmith.page.run_folders import RunFolder, RunProgress
from weightsmith.pipeline.stages import finished_stages
from weightsmith.units import show_amount, show_size, show_time

if TYPE_CHECKING:
    from jinja2 import Template

    from weightsmith.engine.estimate import Estimate
    from weightsmith.inspection.inspect import Inspection
    from weightsmith.methods.method import Method
    from weightsmith.planning.plan import Plan

_SEVERITIES = {"same": "ok", "converted": "converted", "note": "note", "blocks": "change"}
_WEIGHTS = (".gguf", ".safetensors")
_STATES = {
    "queued": "waits for its turn",
    "running": "runs",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled; resume it, and it goes on from what is finished",
    "stopped": "stopped; resume it, and it goes on from what is finished",
}


def inspection_view(inspection: Inspection) -> str:
    """Facts of each model, findings, and the methods to try first where weights were read."""
    from weightsmith.inspection.suggest_method import suggest
    from weightsmith.models.find_model import unique_ends

    short = unique_ends([model.reference for model in inspection.models])
    findings = []
    for finding in inspection.findings:
        text = finding.text
        for reference in sorted(short, key=len, reverse=True):
            text = text.replace(reference, short[reference])
        findings.append((_SEVERITIES[finding.severity], short[finding.model] if finding.model else "", text))
    suggestion = suggest(inspection.movement) if inspection.movement else None
    return _template("inspection").render(
        models=[(short[model.reference], model) for model in inspection.models],
        findings=findings,
        suggestion=str(suggestion or ""),
    )


def method_view(method: Method) -> str:
    """One method: what it does, its advice, its paper."""
    from weightsmith.methods.describe import one_line

    return _template("method").render(method=method, what=one_line(method))


def problem_view(message: str, line: int | None = None) -> str:
    """A refusal."""
    where = f"Line {line}: " if line else ""
    return f'<p class="ws-problem" role="status"><strong>{where}</strong>{html.escape(message)}</p>'


def good_view(message: str) -> str:
    """What is right."""
    return f'<p class="ws-good" role="status">{html.escape(message)}</p>'


def plan_view(plan: Plan, estimate: Estimate | None) -> str:
    """What is made of what; `estimate` is None for models whose weights are still on the hub."""
    return _template("plan").render(plan=plan, estimate=estimate, show_size=show_size, show_time=show_time)


def run_view(run: RunFolder | None) -> str:
    """State, finished stages, the current one, and the last lines of the log."""
    if run is None:
        return '<p class="ws-quiet">No run is chosen.</p>'
    state = run.state
    progress = run.progress if state.state == "running" else None
    return _template("run").render(
        run=run,
        state=state,
        words=_STATES[state.state],
        stages=finished_stages(run.folder),
        progress=progress,
        amount=_amount(progress) if progress else "",
        log="\n".join(run.log),
    )


def results_key(run: RunFolder | None) -> str:
    """Another text when `results_view` may show something else; it looks at two files, where that walks the folder."""
    if run is None:
        return ""
    state = run.state
    return f"{run.name} {state.state} {state.since} {_version(run.report)}"


def _version(report: Path | None) -> int:
    return report.stat().st_mtime_ns if report else 0


def results_view(run: RunFolder | None) -> str:
    """The report in a frame without rights, and links to every file; empty for a run that has neither."""
    if run is None or run.state.state == "running":
        return ""
    report = run.report
    files = [(path.as_posix(), show_size((run.folder / path).stat().st_size)) for path in run.results()]
    models = [file for file in files if file[0].endswith(_WEIGHTS)]
    return _template("results").render(
        name=run.name,
        has_report=report is not None,
        version=_version(report),
        models=models,
        others=[file for file in files if file not in models],
        quote=quote,
    )


def _amount(progress: RunProgress) -> str:
    text, left = show_amount(progress.done, progress.total, progress.unit), progress.seconds_left
    return text if left is None else f"{text}, {show_time(left)} left"


@cache
def _template(name: str) -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("weightsmith.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(f"{name}.html.j2")
