"""The report, with what could break it; the page is looked at in a real browser where there is one."""

from __future__ import annotations

import re
from pathlib import Path

from tests.browser import needs_chromium, shown
from weightsmith.evaluation.evaluate import Evaluation, ModelScores, TaskScore
from weightsmith.report.report_facts import ReportFacts
from weightsmith.report.write_report import write_report


def facts(title: str = "Two skills", evaluation: bool = True) -> ReportFacts:
    models = tuple(
        ModelScores(
            label,
            "x",
            "transformers",
            (TaskScore("dates", "exact_match", share, 60), TaskScore("text", "perplexity", 26.371, 900)),
            1.0,
        )
        for label, share in (("base", 0.0), ("<b>merged</b> | Q4", 0.9834))
    )
    files = (("merged/", 538_000_000, "ties of 4 models"),)
    recipe = "merge_method: ties  # <script>alert(1)</script>\n"
    return ReportFacts(title, recipe, files, (("merge", 17.71),), Evaluation(models) if evaluation else None)


def test_numbers_and_escapes(tmp_path: Path) -> None:
    markdown, page = (p.read_text() for p in write_report(facts("A & B"), tmp_path))
    assert (
        "dates 60 questions, text 900 tokens" in markdown
        and "| base " in markdown
        and "98.3 %" in markdown
        and "26.37" in markdown
        and "538.0 MB" in markdown
    )
    assert "<script>alert" not in page and "A &amp; B" in page and "<b>merged" not in page
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.md"]


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    page = write_report(facts(), tmp_path)[1].read_text()
    assert "<svg" in page and "<script" not in page and "<link" not in page
    assert not re.search(r'(src|href)="(?!#)', page)


def test_same_facts_same_bytes(tmp_path: Path) -> None:
    first = [p.read_bytes() for p in write_report(facts(), tmp_path)]
    assert [p.read_bytes() for p in write_report(facts(), tmp_path)] == first


def test_with_no_evaluation(tmp_path: Path) -> None:
    markdown, page = (p.read_text() for p in write_report(facts(evaluation=False), tmp_path))
    assert "Scores" not in markdown and "<svg" not in page and "merge_method: ties" in markdown


@needs_chromium
def test_in_a_browser(tmp_path: Path) -> None:
    dom, colours = shown(write_report(facts(), tmp_path)[1], tmp_path)
    assert dom.count("<tr>") == 3 + 2 + 2
    assert "98.3 %" in dom and "<svg" in dom
    assert colours > 20  # text, table lines and coloured bars
