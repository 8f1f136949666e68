"""The page of an evaluation, of real models, and with names that mean harm."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

import weightsmith
from tests.browser import needs_chromium, report_seen
from tests.conftest import weightsmith_process
from weightsmith.evaluation.results.evaluated_model import EvaluatedModel
from weightsmith.report.evaluation_report import write_evaluation_report

HOSTILE = "<script>alert('it')</script>$x_$"


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    for name in ("sums", "dates"):
        lines = [json.dumps({"prompt": f"{name} {n}: ", "target": str(n)}) for n in range(6)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def evaluated(chat_models: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation by the command line, of two models and a merge in memory."""
    out = tmp_path_factory.mktemp("evaluated")
    recipe = {"merge_method": "linear", "models": [{"model": str(chat_models / n)} for n in ("a", "b")]}
    (out / "mix.yml").write_text(json.dumps(recipe | {"parameters": {"weight": 0.5}}))
    models = (chat_models / "base", chat_models / "a", f"{HOSTILE}={out / 'mix.yml'}")
    asked = ("--questions", questions / "sums.jsonl", "--questions", questions / "dates.jsonl")
    done = weightsmith_process("evaluate", *models, *asked, "--suite", "quick", "--limit", 2, "-o", out / "scores")
    assert done.returncode == 0, done.stderr
    assert "begin with report.html or evaluation.md" in done.stderr
    return out / "scores"


def test_what_it_tells(evaluated: Path, chat_models: Path) -> None:
    page = (evaluated / "report.html").read_text()
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings == [
        "Averages",
        "Scores: quick",
        "Scores",
        "Models",
        "How they were asked",
        "Time and memory",
    ]
    assert "a against base: no difference seen on" in page and "the first 2" in page
    assert "linear of a and b" in page  # the merge
    size = sum(path.stat().st_size for path in (chat_models / "base").glob("*.safetensors"))
    assert f"<td>{size / 1e6:.1f} MB</td>" in page
    assert len(re.findall(r"<td class=\"how hash\">[0-9a-f]{16,}</td>", page)) == 3


def test_nothing_of_this_machine_and_no_code(evaluated: Path, chat_models: Path) -> None:
    page = (evaluated / "report.html").read_text()
    assert str(chat_models) not in page and str(evaluated.parent) not in page and str(Path.home()) not in page
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r'(src|href)="(?!#|data:image/png;base64)', page)


@needs_chromium
def test_in_a_browser(evaluated: Path) -> None:
    report_seen(evaluated / "report.html", "evaluation")


def test_warnings_and_sizes(chat_models: Path, questions: Path, tmp_path: Path) -> None:
    """Cut requests come first; two files of different sizes are drawn against their averages."""
    found = weightsmith.evaluate(
        {"base": chat_models / "base", "small": chat_models / "a"}, questions=[questions / "sums.jsonl"]
    )
    (suite,) = found.suites
    cut = replace(suite, models=tuple(replace(model, truncated={"sums": 2}) for model in suite.models))
    sizes = tuple(replace(model, bytes=10**6 * (2 - k)) for k, model in enumerate(found.models))
    page = write_evaluation_report(replace(found, suites=(cut,), models=sizes), tmp_path).read_text()
    warning = "base, tasks: 2 requests were longer than the context window and lost the beginning"
    assert page.index(warning) < page.index("<h2>")
    assert page.count("<svg") == 2  # scores; size against average
    one = replace(found, models=(EvaluatedModel("base", "base", None, "", "", "", 0.0, 0), found.models[1]))
    assert write_evaluation_report(one, tmp_path).read_text().count("<svg") == 1


def test_without_the_extra_the_tables_are_there(chat_models: Path, questions: Path, tmp_path: Path) -> None:
    """In an environment without matplotlib."""
    blocked = tmp_path / "blocked" / "matplotlib"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError('not here')\n")
    command = ("evaluate", chat_models / "a", "--questions", questions / "sums.jsonl", "-o", tmp_path / "out")
    done = weightsmith_process(*command, env=os.environ | {"PYTHONPATH": str(blocked.parent)})
    assert done.returncode == 0, done.stderr
    assert "no report.html: a report needs matplotlib: `pip install 'weightsmith[report]'`" in done.stderr
    assert (tmp_path / "out" / "evaluation.md").exists() and not (tmp_path / "out" / "report.html").exists()
