"""A child that answers, one that dies, one that never answers, and one whose parent dies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from weightsmith.child_process import ChildDied, ChildProcess, ChildTookTooLong

MODULE = """
import os, sys, time
from weightsmith.child_process import serve_requests

def answer(request):
    match request["run"]:
        case "twice":
            print("a library says something")
            return {"text": request["text"] * 2}, bytes(range(256)) * request["times"]
        case "abort":
            print("GGML_ASSERT(x > 0) failed", file=sys.stderr, flush=True)
            os.abort()
        case "sleep":
            time.sleep(60)
        case "note":
            return None

serve_requests(answer)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "a_child.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "a_child"


def test_answers(module: str) -> None:
    child = ChildProcess(module)
    for times in (0, 1, 10_000):
        child.tell({"run": "note"})
        answer = child.ask({"run": "twice", "text": "né\n", "times": times}, seconds=30)
        assert answer == ({"text": "né\nné\n"}, bytes(range(256)) * times)
    child.close()


def test_one_that_dies(module: str) -> None:
    child = ChildProcess(module)
    with pytest.raises(ChildDied, match=r"^it was ended by SIGABRT: GGML_ASSERT\(x > 0\) failed$"):
        child.ask({"run": "abort"})
    child.tell({"run": "note"})
    with pytest.raises(ChildDied):
        child.ask({"run": "twice", "text": "", "times": 0})
    child.close()


def test_one_that_never_answers(module: str) -> None:
    child = ChildProcess(module)
    with pytest.raises(ChildTookTooLong, match=r"more than 0.2 seconds"):
        child.ask({"run": "sleep"}, seconds=0.2)
    child.close()


def test_one_that_cannot_begin() -> None:
    child = ChildProcess("no_such_module")
    with pytest.raises(ChildDied, match=r"it ended with 1: .*No module named no_such_module"):
        child.ask({"run": "twice"})
    child.close()


def test_it_ends_with_its_parent(module: str) -> None:
    code = f"""
from weightsmith.child_process import ChildProcess
child = ChildProcess({module!r})
child.ask({{"run": "twice", "text": "", "times": 0}})
print(child._process.pid, flush=True)
input()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    child.wait(timeout=30)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
