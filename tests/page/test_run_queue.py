"""Runs of the page: one after the other, cancelled, resumed, and untouched by the end of the page."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import weightsmith
from weightsmith import child_process
from weightsmith.errors import OutputError
from weightsmith.page.run_folders import RunFolder, RunProgress, find_run, run_folders
from weightsmith.page.run_queue import RunQueue


@pytest.fixture(autouse=True)
def _processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forks of a warm process have no session of their own, which a signal would reach."""
    from tests.conftest import COLD_MODULE_COMMAND

    monkeypatch.setattr(child_process, "module_command", COLD_MODULE_COMMAND)


@pytest.fixture
def pipeline(chat_models: Path, questions: Path) -> str:
    merge = {
        "merge_method": "linear",
        "models": [{"model": str(chat_models / name), "parameters": {"weight": 1}} for name in "ab"],
        "dtype": "float32",
    }
    return json.dumps(
        {"merge": merge, "evaluate": {"questions": [str(questions)], "precision": "float32"}, "report": {}}
    )


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def states(runs: Path) -> dict[str, str]:
    return {run.name: run.state.state for run in run_folders(runs)}


def test_one_after_the_other_cancelled_and_resumed(runs: Path, pipeline: str) -> None:
    first, second, third = (RunFolder.create(runs, name, pipeline) for name in ("one", "two", "three"))
    with RunQueue(runs) as queue:
        for run in (first, second, third):
            queue.add(run)
            time.sleep(0.01)
        queue.cancel(third)
        wait_for(lambda: first.state.state == "running" and list((first.folder / ".stages").glob("merge-*.json")))
        assert states(runs) == {"one": "running", "two": "queued", "three": "cancelled"}
        with pytest.raises(OutputError, match="runs already"):
            queue.add(first)
        queue.cancel(first)
        wait_for(lambda: first.state.state == "cancelled" and second.state.state == "running")
    # the page has ended: what runs goes on, and what waits does not begin
    queue_again = RunQueue(runs)
    queue_again.add(first)
    assert states(runs)["two"] == "running"
    with queue_again:
        wait_for(lambda: second.state.state == "done")
        wait_for(lambda: first.state.state == "done")
    assert "merge: unchanged, reused" in first.log
    assert first.report and second.report and not third.report
    assert {path.name for path in first.results()} >= {"report.html", "pipeline.yml", "model.safetensors", "README.md"}
    assert isinstance(first.progress, RunProgress)
    # it is a folder of `weightsmith run`
    summary = weightsmith.run(first.pipeline, first.folder)
    assert all(stage.reused for stage in summary.stages)


def test_one_that_is_killed_is_not_said_to_run(runs: Path, pipeline: str) -> None:
    run = RunFolder.create(runs, "one", pipeline)
    with RunQueue(runs) as queue:
        queue.add(run)
        wait_for(lambda: run.state.state == "running")
        process = run.state.process
        assert process
        os.killpg(process, signal.SIGKILL)
        wait_for(lambda: run.state.state == "stopped")
        queue.cancel(run)  # nothing to end
        assert run.state.state == "stopped"


def test_a_refusal_is_kept(runs: Path) -> None:
    run = RunFolder.create(runs, "one", "merge: {merge_method: linear, models: [{model: nowhere}]}")
    with RunQueue(runs) as queue:
        queue.add(run)
        wait_for(lambda: run.state.state == "failed")
    assert "nowhere" in run.state.message and run.log[-1] == run.state.message


def test_folders_that_are_no_runs(runs: Path) -> None:
    (runs / "other").mkdir()
    outside = RunFolder.create(runs.parent, "outside", "x: 1")
    (runs / "link").symlink_to(outside.folder)
    (runs / "file").write_text("")
    assert list(run_folders(runs)) == []
    for name in ("other", "link", "..", "../outside", "", "."):
        assert find_run(runs, name) is None


def test_a_damaged_record(runs: Path) -> None:
    run = RunFolder.create(runs, "one", "x: 1")
    for text in ("", "[]", '{"state": 1}', "{" * 2000):
        (run.folder / ".page" / "state.json").write_text(text)
        (run.folder / ".page" / "progress.json").write_text(text)
        assert run.state.state == "stopped" and run.progress is None


@pytest.fixture(autouse=True)
def _nothing_lives_on(runs: Path) -> Iterator[None]:
    yield
    for run in run_folders(runs):
        if run.is_alive and run.state.process:
            os.killpg(run.state.process, signal.SIGKILL)
