"""The script for a machine with a GPU, in its dry form, so that no minute on one is wasted."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.code_blocks import ROOT


def test_it_runs_dry() -> None:
    script, environment = ROOT / "benchmarks/on_gpu.sh", os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([script, "--dry"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ties |")]
    assert len(rows) == 2 and "device same bytes" in rows[0]
    asked = [line for line in done.stdout.splitlines() if " of 2 |" in line]
    assert len(asked) == 2 and all("2 of 2" in line for line in asked)
    assert "| on cpu:0 " in done.stdout
