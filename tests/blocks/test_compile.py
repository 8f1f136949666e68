"""Where compiled kernels are kept: in the user's cache, by their sources, or nowhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import weightsmith

CALL = """
import numpy as np
from weightsmith.blocks.convert import load
out = np.empty(2, np.float32)
load(1, np.array([1.5, -2], np.float16).view(np.uint8), 0, out)
assert out.tolist() == [1.5, -2], out
stats = load.stats
print(len(stats.cache_hits), len(stats.cache_misses), stats.cache_path)
"""
NOTHING_CAN_BE_WRITTEN = """
import numba.core.caching as caching
def refuse(locator):
    raise OSError("read-only")
caching._CacheLocator.ensure_cache_path = refuse
"""


def run(code: str, home: Path, package: Path | None = None) -> list[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
    environment |= {"XDG_CACHE_HOME": str(home)} | ({"PYTHONPATH": str(package)} if package else {})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_compiled_by_each_process_where_nothing_can_be_kept(tmp_path: Path) -> None:
    assert run(NOTHING_CAN_BE_WRITTEN + CALL, tmp_path)[-1] == "None" and not list(tmp_path.iterdir())


def test_kept_for_another_environment_with_the_same_kernels(tmp_path: Path) -> None:
    copied = tmp_path / "environment"
    shutil.copytree(
        Path(weightsmith.__file__).parent, copied / "weightsmith", ignore=shutil.ignore_patterns("__pycache__")
    )
    hits, misses, folder = run(CALL, tmp_path / "home")
    assert (hits, misses) == ("0", "1") and Path(folder).is_relative_to(tmp_path / "home" / "weightsmith" / "kernels")
    assert run(CALL, tmp_path / "home", copied) == ["1", "0", folder]


def test_compiled_again_where_what_a_kernel_calls_has_changed(tmp_path: Path) -> None:
    copied = tmp_path / "environment"
    shutil.copytree(
        Path(weightsmith.__file__).parent, copied / "weightsmith", ignore=shutil.ignore_patterns("__pycache__")
    )
    _, _, folder = run(CALL, tmp_path / "home", copied)
    with (copied / "weightsmith" / "blocks" / "numba_support" / "half_precision.py").open("a") as file:
        file.write("# another one\n")
    hits, misses, other = run(CALL, tmp_path / "home", copied)
    assert (hits, misses) == ("0", "1") and other != folder


BESIDE = """
import os, sys
import numpy as np
from weightsmith.blocks import convert
from weightsmith.blocks.convert import BF16, STORE_BESIDE, store
def before():
    sys.argv[1] == "broken" and 1 / 0
STORE_BESIDE.start(1 if sys.argv[1] == "one core" else 2, before)
started = STORE_BESIDE._process
stored = np.empty(4, np.uint8)
if sys.argv[1] == "forked" and (forked := os.fork()):
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]))
assert store(np.array([1, -3], np.float32), BF16, BF16, stored) == (0, 0x40400000)
assert stored.view(np.uint16).tolist() == [0x3F80, 0xC040]
print(bool(started), len(convert._store.stats.cache_hits), len(convert._store.stats.cache_misses))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no process is forked there")
def test_compiled_by_another_process_where_that_saves_time(tmp_path: Path) -> None:
    def result(home: str, case: str = "", more: str = "") -> list[str]:
        return run(more + BESIDE.replace("sys.argv[1]", repr(case)), tmp_path / home)

    assert result("first") == ["True", "1", "0"]
    assert result("first") == ["False", "1", "0"], "it is there already"
    assert result("second", "one core") == ["False", "0", "1"]
    assert result("third", "broken")[-3:] == ["True", "0", "1"], "what failed there is done here"
    assert result("forked", "forked")[0] == "True"
    assert result("fourth", more=NOTHING_CAN_BE_WRITTEN)[0] == "False"
