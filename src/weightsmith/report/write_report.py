"""`report.md` and a self-contained `report.html`: scores, plots, recipe, files, times."""

from __future__ import annotations

from pathlib import Path

from weightsmith.files.write_whole import write_whole
from weightsmith.inspection.movement import Movement
from weightsmith.report.render_template import render_template
from weightsmith.report.report_facts import ReportFacts


def write_report(facts: ReportFacts, folder: Path) -> tuple[Path, Path]:
    """Write both files into `folder`; returns (Markdown, HTML). The page loads nothing from elsewhere.

    Raises ReportError where jinja2 or matplotlib is not installed."""
    values = {
        "title": facts.title,
        "warnings": facts.warnings,
        "summary": facts.summary,
        "facts": facts,
        "pairs": pair_rows(facts.movement) if facts.movement else [],
    }
    written = [
        write_whole(folder / name, render_template(f"{name}.j2", values)) for name in ("report.md", "report.html")
    ]
    return written[0], written[1]


def pair_rows(movement: Movement) -> list[list[str]]:
    """A table of how alike each two fine-tunes are."""
    rows = [["", "and", "cosine", "same sign", "what it means"]]
    for pair in movement.pairs:
        numbers = [
            "–" if value is None else f"{value:.2f}".replace("-0.00", "0.00")
            for value in (pair.cosine, pair.sign_agreement)
        ]
        rows.append([pair.first, pair.second, *numbers, pair.verdict])
    return rows if len(rows) > 1 else []
