"""Systems without the calls that only Linux has: the same merge, kill and resume, with those calls taken away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import weightsmith
from tests.conftest import save_stranger
from tests.engine.test_resume import killed, recipe
from weightsmith.engine.output.resumable_folder import scratch_of

# What Python runs first (`sitecustomize`): psutil, which has a form for each system, keeps its own.
WITHOUT = """
import builtins, os, sys
for name in ("sched_getaffinity", "posix_fallocate", "fdatasync", "posix_fadvise", "preadv", "pread", "pwrite"):
    delattr(os, name)
sys.modules["fcntl"] = None
with_proc = open
def without_proc(file, *arguments, **options):
    if str(file).startswith("/proc") and not sys._getframe(1).f_globals["__name__"].startswith("psutil"):
        raise FileNotFoundError(file)
    return with_proc(file, *arguments, **options)
builtins.open = without_proc
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, str]:
    """The environment of such a system."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])}


def weightsmith_there(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "weightsmith", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_calls_are_gone(elsewhere: dict[str, str]) -> None:
    script = "import os\nfrom weightsmith.files import folder_lock\nprint(hasattr(os, 'pread'), folder_lock.fcntl)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=elsewhere)
    assert done.stdout.strip() == "False None", done.stderr


def test_a_merge_a_kill_and_a_resume(
    tmp_path: Path, elsewhere: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(("base", "a", "b")):
        save_stranger(tmp_path / name, seed, 60, (512, 2048))
    path = recipe(tmp_path, tmp_path)
    weightsmith.merge(path, tmp_path / "whole")
    done = weightsmith_there(elsewhere, "merge", path, tmp_path / "there")
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(os, "environ", elsewhere)  # for the process that is killed
    killed(path, tmp_path / "out", 20)
    resumed = weightsmith_there(elsewhere, "merge", path, tmp_path / "out")
    assert resumed.returncode == 0 and "tensors were finished before" in resumed.stdout, resumed.stderr
    whole = {file.name: file.read_bytes() for file in (tmp_path / "whole").iterdir()}
    for out in ("there", "out"):
        assert {file.name: file.read_bytes() for file in (tmp_path / out).iterdir()} == whole
    assert not scratch_of(tmp_path / "out").exists() and not list(tmp_path.glob(".*.lock"))
    assert weightsmith_there(elsewhere, "verify", tmp_path / "out").returncode == 0
    assert weightsmith_there(elsewhere, "merge", path, tmp_path / "dry", "--dry-run").returncode == 0


def test_two_processes_there_do_not_write_one_output(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    for seed, name in enumerate(("base", "a", "b")):
        save_stranger(tmp_path / name, seed, 2, (64, 64))
    path = recipe(tmp_path, tmp_path)
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom weightsmith.files.folder_lock import folder_lock\n"
        "with folder_lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(scratch_of(tmp_path / "out"))],
        stdout=subprocess.PIPE,
        text=True,
        env=elsewhere,
    )
    try:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        refused = weightsmith_there(elsewhere, "merge", path, tmp_path / "out")
        assert refused.returncode == 2 and "another weightsmith command is writing there" in refused.stderr
    finally:
        holder.kill()
        holder.wait()
