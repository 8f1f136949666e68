"""`report.md` and a self-contained `report.html`: scores, plots, recipe, files, times."""

from __future__ import annotations

import re
from pathlib import Path

from weightsmith.errors import ReportError
from weightsmith.files.markdown_table import markdown_table, markdown_text
from weightsmith.files.write_whole import write_whole
from weightsmith.inspection.movement import Movement
from weightsmith.machine import describe_machine
from weightsmith.report.movement_plot import movement_plot, similarity_plot
from weightsmith.report.report_facts import ReportFacts
from weightsmith.report.score_plot import score_plot
from weightsmith.report.size_plot import size_plot


def write_report(facts: ReportFacts, folder: Path) -> tuple[Path, Path]:
    """Write both files into `folder`; returns (Markdown, HTML). The page loads nothing from elsewhere.

    Raises ReportError where jinja2 or matplotlib is not installed."""
    try:
        from jinja2 import Environment, PackageLoader
    except ImportError as error:
        raise ReportError("a report needs jinja2: `pip install 'weightsmith[report]'`") from error
    environment = Environment(
        loader=PackageLoader("weightsmith.report", "templates"),
        autoescape=lambda name: bool(name and name.endswith(".html.j2")),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["text"] = markdown_text
    environment.filters["markdown_table"] = markdown_table
    values = {
        "fence": _fence(facts.recipe),
        "facts": facts,
        "machine": describe_machine(),
        "score_plot": score_plot,
        "movement_plot": movement_plot,
        "similarity_plot": similarity_plot,
        "size_plot": size_plot,
        "pairs": pair_rows(facts.movement) if facts.movement else [],
        "megabytes": lambda count: f"{count / 1e6:.1f} MB",
    }
    written = []
    for name in ("report.md", "report.html"):
        written.append(write_whole(folder / name, environment.get_template(f"{name}.j2").render(values)))
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


def _fence(code: str) -> str:
    """A fence that no line of `code` closes."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
