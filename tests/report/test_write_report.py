"""The report, with what could break it; the page is looked at in a real browser where there is one."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

from tests.browser import needs_chromium, shown
from weightsmith.evaluation.results.score_tables import EvaluationTables, SuiteTables
from weightsmith.files.markdown import markdown_text
from weightsmith.inspection.movement import Cell, Movement, Pair
from weightsmith.report.report_facts import ReportFacts, ReportFile, ReportInput, ReportStep
from weightsmith.report.write_report import write_report

HOSTILE = "<script>alert('it')</script>$x$"
NAMES = (HOSTILE, "b", "c")
MOVEMENT = Movement(
    NAMES,
    (0.1, 0.2, 0.3),
    (1.0, 1.0, 1.0),
    (
        *(Cell(layer, module, (0.1, 0.2, 0.3)) for layer in range(3) for module in ("mlp.up_proj", HOSTILE)),
        Cell(None, "norm", (math.inf, 0.0, 0.0)),
        Cell(3, "mlp.up_proj", (math.inf, 0.0, 0.1)),
    ),
    (
        Pair(HOSTILE, "b", 0.5, 0.6, 1.0),
        Pair(HOSTILE, "c", None, None, 0.0),
        Pair("b", "c", -0.3, 0.4, 1.0),
    ),
    (),
)


def facts(title: str = "Two skills", evaluation: bool = True) -> ReportFacts:
    models = ["base", "<b>merged</b> | Q4"]
    dates, text = [(0.0, 0.0), (98.34, 1.67)], [(26.371, 0.5), (26.5, None)]
    scores = [["", *models], ["dates", "0.00", "98.34 ± 1.67"], ["text (perplexity)", "26.37", "26.50"]]
    differences = [
        ["model", "on", "against", "difference", "verdict"],
        [models[1], "dates", "base", "+98.34", "better"],
    ]
    tables = SuiteTables("tasks", "60 questions", scores, differences, [("dates", dates)], [("text", text)])  # type: ignore[list-item]
    files = (
        ReportFile("merged/", 538_000_000, "ties of 4 models"),
        ReportFile("gguf/a-q8_0.gguf", 300_000_000, "", 0.01),
        ReportFile("gguf/a-q4_k_m.gguf", 200_000_000, "", 0.2),
    )
    recipe = "merge_method: ties  # <script>alert(1)</script>\n"
    steps = (ReportStep("merge", 17.71, 800_000_000), ReportStep("evaluate", 2.0))
    found = EvaluationTables(models, [tables]) if evaluation else None
    inputs = (ReportInput(HOSTILE, f"commit {HOSTILE}", HOSTILE),)
    return ReportFacts(title, recipe, files, steps, found, HOSTILE, (HOSTILE,), inputs, MOVEMENT)


def test_numbers_and_escapes(tmp_path: Path) -> None:
    markdown, page = (p.read_text() for p in write_report(facts("A & B"), tmp_path))
    assert (
        "60 questions" in markdown
        and " base " in markdown
        and "98.34 ± 1.67" in markdown
        and "26.37" in markdown
        and "538.0 MB" in markdown
    )
    assert "<script>alert" not in page and "A &amp; B" in page and "<b>merged" not in page
    outside_code = re.sub(r"^```yaml$.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    assert "# A &amp; B" in outside_code and "<b>" not in outside_code and r"&lt;b>merged&lt;/b> \| Q4" in outside_code
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.md"]


def test_a_number_below_another_stays_as_it_is() -> None:
    assert markdown_text("<0.001") == "<0.001" and markdown_text("p < 0.05") == "p < 0.05"
    assert markdown_text("<b>") == "&lt;b>" and markdown_text("</b><!--") == "&lt;/b>&lt;!--"


def test_markdown_that_means_harm(tmp_path: Path) -> None:
    title = "x\n# y ![a](http://tracker) `code` <img src=x onerror=alert(1)>"
    hostile = replace(
        facts(title), recipe="a: 1\n```\n<script>alert(2)</script>\n", files=(ReportFile("a|b\n|c|", 1, "[x](y)"),)
    )
    markdown = write_report(hostile, tmp_path)[0].read_text()
    fenced = re.search(r"^````yaml\n(.*?)^````$", markdown, re.MULTILINE | re.DOTALL)
    assert fenced and "<script>" in fenced[1]
    rest = markdown.replace(fenced[0], "")
    assert "<" not in rest and "\n# y" not in rest and "![a]" not in rest and "](" not in rest.replace("\\](", "")
    assert r"| a\|b \|c\| |" in rest


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    page = write_report(facts(), tmp_path)[1].read_text()
    assert "<svg" in page and "<script" not in page and "<link" not in page
    assert not re.search(r'(src|href)="(?!#|data:image/png;base64)', page)


def test_tables_survive_json() -> None:
    tables = facts().evaluation
    assert tables and EvaluationTables.from_json(json.loads(json.dumps(tables.as_json()))) == tables


def test_same_facts_same_bytes(tmp_path: Path) -> None:
    first = [p.read_bytes() for p in write_report(facts(), tmp_path)]
    assert [p.read_bytes() for p in write_report(facts(), tmp_path)] == first


def test_with_no_evaluation(tmp_path: Path) -> None:
    markdown, page = (p.read_text() for p in write_report(facts(evaluation=False), tmp_path))
    assert "Scores" not in markdown and "98.34" not in page and "merge_method: ties" in markdown


@needs_chromium
def test_in_a_browser(tmp_path: Path) -> None:
    dom, colours = shown(write_report(facts(), tmp_path)[1], tmp_path)
    assert dom.count("<tr>") == 3 + 2 + 2 + 4 + 4 + 3  # scores, differences, models, pairs, files, steps
    assert "98.34 ± 1.67" in dom and "<svg" in dom
    assert colours > 20  # text, table lines and coloured bars


def test_warnings_come_first(tmp_path: Path) -> None:
    markdown, page = (p.read_text() for p in write_report(facts(), tmp_path))
    for text in (markdown, page):
        assert text.index("Warning") < text.index("98.34") < text.index("merge_method")
    assert "$x$" in page  # and no formula that cannot be drawn
    assert page.count("<svg") == 4  # scores, movement, likeness, size


def test_a_run_that_measured_little(tmp_path: Path) -> None:
    few = replace(facts(), movement=None, files=facts().files[:2], inputs=(), warnings=(), summary="")
    page = write_report(few, tmp_path)[1].read_text()
    assert page.count("<svg") == 1 and "How alike" not in page and "Warning" not in page
