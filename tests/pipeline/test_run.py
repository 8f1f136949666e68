"""A pipeline on tiny models: what is done again and what is not; what is refused; a killed run goes on."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import weightsmith
from tests.conftest import stderr_lines, weightsmith_process


def pipeline(chat_models: Path, questions: Path, folder: Path, *, density: float = 0.5, **changes) -> Path:
    """Parameters of `evaluate` and so on can be replaced; None leaves a stage out."""
    entries = [
        {"model": str(chat_models / n), "parameters": {"weight": 1.0, "density": density}} for n in ("a", "b", "c")
    ]
    content = {
        "merge": {
            "merge_method": "ties",
            "base_model": str(chat_models / "base"),
            "models": entries,
            "dtype": "float32",
        },
        "export": ["q8_0"],
        "evaluate": {
            "models": {"base": str(chat_models / "base"), "merged": "$merged", "small": "$q8_0"},
            "questions": [str(questions)],
        },
        "report": None,
    } | changes
    path = folder / "pipeline.yml"
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v != "absent"}, sort_keys=False))
    return path


def done(summary) -> list[str]:
    return [stage.name for stage in summary.stages if not stage.reused]


ALL = ["merge", "export f16", "export q8_0", "evaluate", "card", "compare", "report"]


@pytest.fixture(scope="module")
def finished(chat_models: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    summary = weightsmith.run(pipeline(chat_models, questions, folder), folder / "out")
    assert done(summary) == ALL
    return folder


def test_everything_is_there(finished: Path) -> None:
    names = {p.name for p in (finished / "out").iterdir()}
    assert names == {"merged", "gguf", "evaluation", "report.md", "report.html", ".stages"}
    folders = {path.name for path in (finished / "out" / "evaluation").iterdir() if path.is_dir()}
    assert folders == {"base", "merged", "small"}


def test_only_what_depends_on_a_change_is_done_again(chat_models: Path, questions: Path, finished: Path) -> None:
    out, mine = finished / "out", finished / "capitals.jsonl"
    assert done(weightsmith.run(finished / "pipeline.yml", out)) == []
    # a comment in the recipe, or the same file elsewhere, changes nothing that counts
    path = pipeline(chat_models, questions, finished)
    path.write_text("# a note\n" + path.read_text())
    assert done(weightsmith.run(path, out)) == []
    mine.write_bytes(questions.read_bytes())
    assert done(weightsmith.run(pipeline(chat_models, mine, finished), out)) == []
    # other questions: scores and report
    mine.write_text('{"prompt": "The capital of Spain?", "target": "Madrid"}\n')
    assert done(weightsmith.run(pipeline(chat_models, mine, finished), out)) == ["evaluate", "card", "report"]
    # another recipe: all but the base's scores, and how far the same models moved
    lines: list[str] = []
    changed = weightsmith.run(pipeline(chat_models, mine, finished, density=0.3), out, log=lines.append)
    assert done(changed) == [name for name in ALL if name != "compare"]
    reused = {line.split(":")[0]: re.findall(r"(\d+) requests answered, (\d+) reused", line) for line in lines}
    assert reused["base"][0][0] == "0" and reused["merged"][0][1] == "0"  # the base is not asked again
    # an output that was edited is made again, and nothing that was made from it before
    with (out / "gguf" / "merged-q8_0.gguf").open("ab") as file:
        file.write(b"x")
    assert done(weightsmith.run(pipeline(chat_models, mine, finished, density=0.3), out)) == [
        "export q8_0",
        "card",
        "report",
    ]


def test_a_changed_input_is_noticed(chat_models: Path, questions: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(chat_models, tmp_path / "models")
    path = pipeline(tmp_path / "models", questions, tmp_path, export=[], evaluate="absent", report="absent")
    assert done(weightsmith.run(path, tmp_path / "out")) == ["merge", "card"]
    before = (tmp_path / "out" / "merged" / "model.safetensors").read_bytes()
    weights = load_file(tmp_path / "models" / "b" / "model.safetensors")
    weights["model.norm.weight"] *= 2
    save_file(weights, tmp_path / "models" / "b" / "model.safetensors", {"format": "pt"})
    assert done(weightsmith.run(path, tmp_path / "out")) == ["merge", "card"]
    assert (tmp_path / "out" / "merged" / "model.safetensors").read_bytes() != before


def test_a_killed_run_goes_on(chat_models: Path, questions: Path, finished: Path, tmp_path: Path) -> None:
    path = pipeline(chat_models, questions, tmp_path)
    command = [sys.executable, "-m", "weightsmith", "run", str(path), str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "out").glob(".stages/export f16-*.json")):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    summary = weightsmith.run(path, tmp_path / "out")
    assert done(summary) in (ALL[2:], ALL[3:])
    assert not list((tmp_path / "out").rglob("*.partial"))


BAD = {
    "unknown key": ({"exprot": ["f16"]}, "unknown key 'exprot'; did you mean 'export'"),
    "unknown type": ({"export": ["q9_9"]}, "unknown GGUF type 'q9_9'"),
    "not made": ({"evaluate": {"models": {"x": "$q4_k_m"}, "questions": []}}, "nothing to evaluate"),
    "not made here": (
        {"evaluate": {"models": {"x": "$q4_k_m"}, "questions": ["QUESTIONS"]}},
        "'$q4_k_m' is not an output of this run",
    ),
    "no such task": ({"evaluate": {"tasks": ["quick_factz"]}}, "did you mean 'quick_facts'"),
    "no such suite": ({"evaluate": {"suites": ["nouz"]}}, "did you mean 'nous'"),
    "no such base": ({"evaluate": {"suites": ["quick"], "base": "x"}}, "'x' is not one of the models"),
    "no questions file": ({"evaluate": {"questions": ["/nowhere.jsonl"]}}, "/nowhere.jsonl: no such file"),
    "no such device": (
        {"evaluate": {"suites": ["quick"], "device": "warp"}},
        "--device warp: torch cannot use it here",
    ),
    "merge is missing": ({"merge": "absent"}, "the key 'merge' is missing"),
    "unknown method": ({"merge": {"merge_method": "tiez", "models": [{"model": "x"}]}}, "did you mean 'ties'"),
    "no such model": (
        {"evaluate": {"models": {"x": "/nowhere"}, "questions": ["QUESTIONS"]}},
        "/nowhere: no such folder",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_pipelines(case: str, chat_models: Path, questions: Path, tmp_path: Path) -> None:
    changes, message = BAD[case]
    path = pipeline(chat_models, questions, tmp_path, **changes)
    path.write_text(path.read_text().replace("QUESTIONS", str(questions)))
    result = weightsmith_process("run", path, tmp_path / "out")
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert len(stderr_lines(result)) == 1
    assert f"{path}:" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["pipeline.yml"]


def test_suites_tasks_and_questions_are_one_stage(
    chat_models: Path, questions: Path, finished: Path, tmp_path: Path
) -> None:
    models = {"base": str(chat_models / "base"), "a": str(chat_models / "a"), "merged": "$merged"}
    stage = {"models": models, "suites": ["quick"], "tasks": ["quick_facts"], "limit": 3, "precision": "float32"}
    stage["questions"] = [str(questions)]
    path = pipeline(chat_models, questions, tmp_path, export=[], evaluate=stage)
    first = weightsmith.run(path, tmp_path / "out")
    assert done(first) == ["merge", "evaluate", "card", "compare", "report"] and first.evaluation
    report = (tmp_path / "out" / "report.md").read_text()
    assert str(chat_models) not in report and "base_model: base" in report
    assert "## Scores: quick" in report and "18 questions of 360" in report and "a (best parent)" in report
    assert all(suite.to_markdown() in report for suite in first.evaluation.suites)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 5 and "<h2>Averages</h2>" in page and "<h2>Scores</h2>" in page and "capitals" in page
    assert (tmp_path / "out" / "evaluation" / "merged" / "model-index.yml").exists()
    assert done(weightsmith.run(path, tmp_path / "out")) == []
    more = pipeline(chat_models, questions, tmp_path, export=[], evaluate=stage | {"limit": 4})
    assert done(weightsmith.run(more, tmp_path / "out")) == ["evaluate", "card", "report"]


def test_somebody_elses_folder_is_left_alone(chat_models: Path, questions: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    result = weightsmith_process("run", pipeline(chat_models, questions, tmp_path), tmp_path / "out")
    assert result.returncode == 2
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_warnings_of_the_recipe_are_logged(chat_models: Path, questions: Path, tmp_path: Path) -> None:
    weights = zip(("a", "b", "c"), (0.65, -0.66, 0.03), strict=True)
    entries = [{"model": str(chat_models / name), "parameters": {"weight": weight}} for name, weight in weights]
    recipe = {"merge_method": "linear", "models": entries}
    file = pipeline(chat_models, questions, tmp_path, merge=recipe, export=[], evaluate="absent", report="absent")
    lines: list[str] = []
    weightsmith.run(file, tmp_path / "out", log=lines.append)
    assert any("warning: " in line and "nearly cancel" in line for line in lines)
