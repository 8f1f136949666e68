"""An export that is killed while it converts, calibrates or quantizes: no file that looks whole, and the same command
goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import weightsmith
from tests.conftest import weightsmith_process


@pytest.fixture(scope="module")
def model(smollm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six layers of a real model: each stage takes long enough to be seen."""
    folder = tmp_path_factory.mktemp("model")
    stack = [{"sources": [{"model": str(smollm), "layer_range": [0, 6]}]}]
    (folder / "r.yml").write_text(json.dumps({"merge_method": "passthrough", "slices": stack, "dtype": "float32"}))
    weightsmith.merge(folder / "r.yml", folder / "m")
    return folder / "m"


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is made when nothing is killed."""
    root = tmp_path_factory.mktemp("whole")
    (root / "text.txt").write_text("One two three, four five six. " * 200)
    weightsmith.export(model, root / "out", types="q4_k_m", calibrate=root / "text.txt", name="m", check="none")
    return root


@pytest.mark.parametrize(
    "stage,how",
    [
        ("m-f16.gguf", signal.SIGKILL),
        pytest.param("m-imatrix.gguf", signal.SIGKILL, marks=pytest.mark.more),
        pytest.param("m-q4_k_m.gguf", signal.SIGKILL, marks=pytest.mark.more),
        pytest.param("m-imatrix.gguf", signal.SIGINT, marks=pytest.mark.more),
    ],
)
def test_killed_in_each_stage(stage: str, how: signal.Signals, whole: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [
        "export",
        model,
        out,
        "-t",
        "q4_k_m",
        "--calibrate",
        whole / "text.txt",
        "--name",
        "m",
        "--check",
        "none",
    ]
    command = [sys.executable, "-m", "weightsmith", *map(str, arguments)]
    order = ["m-f16.gguf", "m-imatrix.gguf", "m-q4_k_m.gguf"]
    before, partial = order[: order.index(stage)], f".{stage}."
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    seen = False
    while time.monotonic() < deadline and process.poll() is None and not seen:
        seen = out.exists() and (
            any(p.name.startswith(partial) for p in out.iterdir())
            or ("imatrix" in stage and (out / before[-1]).exists())
        )
        time.sleep(0.002)
    assert seen, process.stderr and process.stderr.read()
    if how is signal.SIGKILL:
        process.kill()  # what it started lives on for a while
    else:
        os.killpg(process.pid, how)
    _, messages = process.communicate()
    if how is signal.SIGINT:
        assert process.returncode == 130 and "resume it with the same command" in messages
    made = {p.name for p in out.glob("*.gguf")}
    assert made <= set(before) | {stage} and set(before) <= made
    done = weightsmith_process(*arguments)
    assert done.returncode == 0, done.stderr
    assert not [p.name for p in out.iterdir() if p.name.endswith(".partial")]
    for name in order:
        assert (out / name).read_bytes() == (whole / "out" / name).read_bytes()
