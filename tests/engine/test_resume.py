"""Merges that are killed and go on; runs that may not; checksums; weights that are no numbers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

import weightsmith
from tests.conftest import save_stranger, stderr_lines, weightsmith_process
from weightsmith.engine.output.resumable_folder import scratch_of


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, `a`, `b`: 60 tensors of 2 MB in a family nobody described, a merge of a second or two."""
    root = tmp_path_factory.mktemp("wide")
    for seed, name in enumerate(("base", "a", "b")):
        save_stranger(root / name, seed, 60, (512, 2048))
    return root


def recipe(root: Path, folder: Path, **more) -> Path:
    entries = [{"model": str(root / n), "parameters": {"weight": 0.5, "density": 0.6}} for n in "ab"]
    content = {
        "merge_method": "dare_ties",
        "base_model": str(root / "base"),
        "models": entries,
        "dtype": "float16",
    } | more
    (folder / "recipe.yml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yml"


def killed(path: Path, out: Path, lines: int, command: str = "merge") -> None:
    """Run a merge and kill it without warning once its journal has so many lines."""
    process = subprocess.Popen([sys.executable, "-c", SLOW, command, str(path), str(out), "--threads", "1"])
    journal = scratch_of(out) / "journal.jsonl"
    while not (journal.exists() and len(journal.read_text().splitlines()) >= lines):
        assert process.poll() is None, "the merge ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()


# The command line with a journal that writes its lines often, and slower work, so that a kill meets every phase.
SLOW = """
import time, weightsmith.engine.output.journal as journal, weightsmith.engine.run_tensors as run_tensors
journal.SECONDS_BETWEEN_LINES = 0.02
write = run_tensors._Output._write
run_tensors._Output._write = lambda *a: (time.sleep(0.01), write(*a), time.sleep(0.01))
from weightsmith.commands.app import main
main()
"""


@pytest.mark.parametrize("lines", [2, 20, *(pytest.param(n, marks=pytest.mark.more) for n in (1, 45))])
def test_a_killed_merge_goes_on_to_the_same_bytes(lines: int, wide: Path, tmp_path: Path) -> None:
    path = recipe(wide, tmp_path)
    weightsmith.merge(path, tmp_path / "whole")
    killed(path, tmp_path / "out", lines)
    assert not (tmp_path / "out").exists()
    done = weightsmith_process("merge", path, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert lines < 3 or "tensors were finished before" in done.stdout
    for name in ("model.safetensors", "config.json", "checksums.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not scratch_of(tmp_path / "out").exists()
    assert weightsmith_process("verify", tmp_path / "out").returncode == 0


def test_a_killed_unify_goes_on_to_the_same_bytes(wide: Path, tmp_path: Path) -> None:
    weightsmith.unify(str(wide / "a"), tmp_path / "whole")
    killed(wide / "a", tmp_path / "out", 12, "unify")
    refused = weightsmith_process("unify", wide / "b", tmp_path / "out")
    assert refused.returncode == 2 and "inputs changed since" in refused.stderr
    done = weightsmith_process("unify", wide / "a", tmp_path / "out")
    assert done.returncode == 0 and "tensors were finished before" in done.stdout, done.stderr
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert weightsmith_process("verify", tmp_path / "out").returncode == 0


def test_killed_twice(wide: Path, tmp_path: Path) -> None:
    path = recipe(wide, tmp_path)
    for lines in (10, 30):
        killed(path, tmp_path / "out", lines)
    summary = weightsmith.merge(path, tmp_path / "out")
    assert summary.resumed >= 25
    weightsmith.merge(path, tmp_path / "whole")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def test_another_run_does_not_go_on(wide: Path, tmp_path: Path) -> None:
    killed(recipe(wide, tmp_path), tmp_path / "out", 5)
    changed = recipe(wide, tmp_path, parameters={"lambda": 0.5})
    refused = weightsmith_process("merge", changed, tmp_path / "out")
    assert refused.returncode == 2 and len(stderr_lines(refused)) == 1
    assert "recipe changed since" in refused.stderr and "--restart" in refused.stderr
    assert scratch_of(tmp_path / "out").exists()
    done = weightsmith_process("merge", changed, tmp_path / "out", "--restart")
    assert done.returncode == 0 and "finished before" not in done.stdout


def test_changed_inputs_and_seeds_are_noticed(wide: Path, tmp_path: Path) -> None:
    for name in ("base", "a", "b"):
        shutil.copytree(wide / name, tmp_path / name)
    path = recipe(tmp_path, tmp_path)
    killed(path, tmp_path / "out", 5)
    refused = weightsmith_process("merge", path, tmp_path / "out", "--seed", 7)
    assert refused.returncode == 2 and "seed changed since" in refused.stderr
    os.utime(tmp_path / "a" / "model.safetensors")
    refused = weightsmith_process("merge", path, tmp_path / "out")
    assert refused.returncode == 2 and "inputs changed since" in refused.stderr


def test_a_finished_merge_is_done_already(wide: Path, tmp_path: Path) -> None:
    """As after a kill behind the last rename: the same command says so, another one is refused, changed inputs too."""
    for name in "ab":
        shutil.copytree(wide / name, tmp_path / name)
    shutil.copytree(wide / "base", tmp_path / "base")
    path, out = recipe(tmp_path, tmp_path), tmp_path / "out"
    first = weightsmith_process("merge", path, out)
    assert first.returncode == 0
    before = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in out.iterdir()}
    again = weightsmith_process("merge", path, out, "--threads", 1)
    assert again.returncode == 0 and "done already" in again.stdout, again.stderr
    assert before == {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in out.iterdir()}
    assert weightsmith.merge(path, out).done_already
    for options in (("--seed", 7), ("--on-nan", "warn"), ("--out-shard-size", "5MB")):
        refused = weightsmith_process("merge", path, out, *options)
        assert refused.returncode == 2 and "exists and is not empty" in refused.stderr
    (out / "config.json").write_text((out / "config.json").read_text() + " ")
    edited = weightsmith_process("merge", path, out)
    assert edited.returncode == 2 and "exists and is not empty" in edited.stderr
    forced = weightsmith_process("merge", path, out, "--force")
    assert forced.returncode == 0 and "done already" not in forced.stdout
    tensor = tmp_path / "a" / "model.safetensors"
    times = tensor.stat()
    with tensor.open("r+b") as file:  # far behind the header, with the time it had
        file.seek(-8, os.SEEK_END)
        file.write(b"\0" * 8)
    os.utime(tensor, ns=(times.st_atime_ns, times.st_mtime_ns))
    refused = weightsmith_process("merge", path, out)
    assert refused.returncode == 2 and "exists and is not empty" in refused.stderr
    assert weightsmith_process("merge", path, out, "--force").returncode == 0
    assert weightsmith.merge(path, out).done_already
    (out / "merge_recipe.yml").unlink()
    assert weightsmith_process("merge", path, out).returncode == 2


def test_a_finished_unify_is_done_already(wide: Path, tmp_path: Path) -> None:
    assert not weightsmith.unify(str(wide / "a"), tmp_path / "out").done_already
    again = weightsmith_process("unify", wide / "a", tmp_path / "out")
    assert again.returncode == 0 and "done already" in again.stdout, again.stderr
    assert weightsmith_process("unify", wide / "b", tmp_path / "out").returncode == 2


def test_two_processes_on_one_output(wide: Path, tmp_path: Path) -> None:
    path = recipe(wide, tmp_path)
    first = subprocess.Popen([sys.executable, "-c", SLOW, "merge", str(path), str(tmp_path / "out"), "--threads", "1"])
    while not (scratch_of(tmp_path / "out") / "journal.jsonl").exists():
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # it lives, and holds its lock, for as long as the second one needs
    second = weightsmith_process("merge", path, tmp_path / "out")
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2 and "another weightsmith command is writing there" in second.stderr
    assert first.wait(timeout=60) == 0
    assert weightsmith_process("verify", tmp_path / "out").returncode == 0


def test_a_damaged_scratch_folder(wide: Path, tmp_path: Path) -> None:
    path = recipe(wide, tmp_path)
    killed(path, tmp_path / "out", 5)
    with (scratch_of(tmp_path / "out") / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    refused = weightsmith_process("merge", path, tmp_path / "out")
    assert refused.returncode == 2 and "was changed since its run was interrupted" in refused.stderr


def test_verify_names_what_is_damaged(wide: Path, tmp_path: Path) -> None:
    weightsmith.merge(recipe(wide, tmp_path), tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    weights["net.7.w"][3, 4] += 1
    weights["new.w"] = weights.pop("net.9.w")
    save_file(weights, tmp_path / "out" / "model.safetensors")
    done = weightsmith_process("verify", tmp_path / "out")
    assert done.returncode == 2 and len(stderr_lines(done)) == 1
    for part in ("1 tensors damaged: net.7.w", "1 tensors missing: net.9.w", "1 tensors not of the merge: new.w"):
        assert part in done.stderr
    (tmp_path / "out" / "checksums.json").unlink()
    assert "`weightsmith merge` writes it" in weightsmith_process("verify", tmp_path / "out").stderr


def with_value(wide: Path, folder: Path, value: float) -> Path:
    for name in ("base", "a", "b"):
        shutil.copytree(wide / name, folder / name)
    weights = load_file(folder / "a" / "model.safetensors")
    weights["net.3.w"][5, 6] = value
    save_file(weights, folder / "a" / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    "value,counts", [(float("nan"), "1 NaN and 0 infinite"), (float("inf"), "0 NaN and 1 infinite")]
)
@pytest.mark.parametrize("method", ["dare_ties", "ties", "della", "breadcrumbs"])
def test_inputs_that_are_no_numbers(value: float, counts: str, method: str, wide: Path, tmp_path: Path) -> None:
    path = recipe(with_value(wide, tmp_path, value), tmp_path, merge_method=method, parameters={"rescale": False})
    refused = weightsmith_process("merge", path, tmp_path / "out")
    assert refused.returncode == 2, refused.stdout
    assert f"tensor 'net.3.w' holds {counts}" in refused.stderr and "--on-nan warn" in refused.stderr
    assert not (tmp_path / "out").exists() and not scratch_of(tmp_path / "out").exists()
    done = weightsmith_process("merge", path, tmp_path / "out", "--on-nan", "warn")
    assert done.returncode == 0 and "tensor 'net.3.w': " in done.stderr


def test_too_large_for_float16(wide: Path, tmp_path: Path) -> None:
    path = recipe(
        with_value(wide, tmp_path, 60000.0), tmp_path, merge_method="task_arithmetic", parameters={"lambda": 3.0}
    )
    refused = weightsmith_process("merge", path, tmp_path / "out")
    assert (
        refused.returncode == 2 and "'net.3.w': the result holds" in refused.stderr and "use bfloat16" in refused.stderr
    )
    done = weightsmith_process(
        "merge",
        recipe(tmp_path, tmp_path, merge_method="task_arithmetic", dtype="bfloat16"),
        tmp_path / "out",
        "--profile",
    )
    assert done.returncode == 0 and "statistics" in done.stdout
    assert json.loads((tmp_path / "out" / "checksums.json").read_text())["algorithm"] == "xxh3_128"
