"""Many threads are forked processes: the same bytes and messages, and none of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import weightsmith
from tests.conftest import save_stranger, stderr_lines, weightsmith_process
from tests.engine.test_resume import SLOW, recipe
from weightsmith.engine.output.resumable_folder import scratch_of
from weightsmith.engine.workers.on_processes import MOST_THREADS, on_processes
from weightsmith.errors import MergeError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux")
MANY = MOST_THREADS + 2
SLOWER = SLOW.replace("sleep(0.01)", "sleep(0.5)")  # so that a busy machine stops it in time


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, `a`, `b`: 24 tensors of 512 kB; `c` has an infinity."""
    root = tmp_path_factory.mktemp("strangers")
    for seed, name in enumerate(("base", "a", "b")):
        save_stranger(root / name, seed, 24, (256, 1024))
    save_stranger(root / "c", 3, 24, (256, 1024), **{"17": (5, 5, float("inf"))})
    return root


def begun(path: Path, out: Path) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """A slow merge in a terminal's group of its own, once its processes are at work, and those."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWER, "merge", str(path), str(out), "--threads", str(MANY)],
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    journal = scratch_of(out) / "journal.jsonl"
    while not (journal.exists() and len(journal.read_text().splitlines()) >= 4):
        assert process.poll() is None, "the merge ended before it could be stopped"
        time.sleep(0.01)
    return process, psutil.Process(process.pid).children()


def all_ended(children: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(children, timeout=30)
    return not alive


@pytest.mark.parametrize("method", ["ties", "dare_ties", "linear", "sce", "slerp", "passthrough"])
def test_the_same_bytes(method: str, strangers: Path, tmp_path: Path) -> None:
    models = [{"model": str(strangers / name), "parameters": {"weight": 0.5}} for name in "ab"]
    content = {"merge_method": method, "models": models, "dtype": "float16"}
    if method in ("ties", "dare_ties", "sce"):
        content["base_model"] = str(strangers / "base")
    if method == "slerp":
        content |= {"base_model": str(strangers / "a"), "parameters": {"t": 0.3}}
    if method == "passthrough":
        content["models"] = models[:1]
    one, many = (weightsmith.merge(content, tmp_path / str(n), threads=n) for n in (1, MANY))
    assert (one.trim_ties, one.not_finite) == (many.trim_ties, many.not_finite)
    for name in ("model.safetensors", "checksums.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / str(MANY) / name).read_bytes()


def test_an_infinity_is_refused_or_counted_as_by_threads(strangers: Path, tmp_path: Path) -> None:
    path = recipe(strangers, tmp_path, models=[{"model": str(strangers / "c"), "parameters": {"weight": 1.0}}])
    refused = weightsmith_process("merge", path, tmp_path / "out", "--threads", MANY)
    (message,) = stderr_lines(refused)[-1:]
    assert refused.returncode == 2 and "tensor 'net.17.w' holds 0 NaN and 1 infinite" in message
    assert not (tmp_path / "out").exists()
    counted = [
        weightsmith.merge(path, tmp_path / f"out{n}", threads=n, on_nan="warn", restart=True).not_finite
        for n in (1, MANY)
    ]
    assert counted[0] == counted[1] and counted[0][0].infinite == 1


def test_interrupted_and_continued(strangers: Path, tmp_path: Path) -> None:
    path = recipe(strangers, tmp_path)
    process, children = begun(path, tmp_path / "out")
    assert len(children) == MANY
    os.killpg(process.pid, signal.SIGINT)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 130, log
    assert b"Traceback" not in log and all_ended(children)
    summary = weightsmith.merge(path, tmp_path / "out", threads=MANY)
    weightsmith.merge(path, tmp_path / "whole", threads=1)
    assert summary.resumed >= 3
    ours, whole = (tmp_path / name / "model.safetensors" for name in ("out", "whole"))
    assert ours.read_bytes() == whole.read_bytes()


def test_none_outlives_a_merge_that_is_killed(strangers: Path, tmp_path: Path) -> None:
    process, children = begun(recipe(strangers, tmp_path), tmp_path / "out")
    process.kill()
    process.communicate()
    assert all_ended(children)


def test_a_process_that_the_system_kills(strangers: Path, tmp_path: Path) -> None:
    process, children = begun(recipe(strangers, tmp_path), tmp_path / "out")
    children[1].kill()
    _, log = process.communicate(timeout=60)
    assert process.returncode == 2 and b"was killed" in log and b"fewer --threads" in log and all_ended(children)
    done = weightsmith_process("merge", tmp_path / "recipe.yml", tmp_path / "out", "--threads", 2)
    assert done.returncode == 0 and "tensors were finished before" in done.stdout


def test_work_that_fails_stops_the_others(tmp_path: Path) -> None:
    def work(number: int, stop) -> int:
        if number == 1:
            raise MergeError("one of them", path=tmp_path)
        while not stop.is_set():
            time.sleep(0.01)
        return number

    def first_is_quick(number: int, stop) -> int:
        return work(number, stop) if number < 9 else number

    with pytest.raises(MergeError, match="one of them") as raised:
        list(on_processes(first_is_quick, range(10), 3, tick=lambda: None))
    assert raised.value.path == tmp_path
