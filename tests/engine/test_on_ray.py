"""Shards made by the workers of a real Ray cluster on this machine, one of them killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import weightsmith
from tests.conftest import save_stranger, stderr_lines, weightsmith_process
from weightsmith.engine.distributed.on_ray import RayJob, _check_same, _make_shard
from weightsmith.engine.output.resumable_folder import scratch_of
from weightsmith.engine.output.run_digest import run_digest
from weightsmith.errors import MergeError
from weightsmith.planning.make_plan import make_plan
from weightsmith.recipe.recipe import load_recipe

SHARDS = ("--threads", "1", "--out-shard-size", "4MB")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merge of 40 tensors of 1 MB; the models are named from the folder that the merge is started in."""
    root = tmp_path_factory.mktemp("ray")
    for seed, name in enumerate(("base", "a", "b")):
        save_stranger(root / name, seed, 40, (512, 1024), **({"39": (3, 4, float("nan"))} if name == "a" else {}))
    entries = [{"model": name, "parameters": {"weight": 0.5, "density": 0.6}} for name in "ab"]
    content = {"merge_method": "dare_ties", "base_model": "base", "models": entries, "dtype": "float16"}
    (root / "recipe.yml").write_text(yaml.safe_dump(content | {"parameters": {"rescale": False}}))
    (root / "whole").mkdir()
    done = weightsmith_process(
        "merge", root / "recipe.yml", root / "whole", *SHARDS, "--on-nan", "warn", "--force", cwd=root
    )
    assert done.returncode == 0, done.stderr
    return root / "recipe.yml"


def same(a: Path, b: Path) -> bool:
    names = sorted(os.listdir(a))
    assert len([name for name in names if name.endswith(".safetensors")]) == 14
    return names == sorted(os.listdir(b)) and all((a / n).read_bytes() == (b / n).read_bytes() for n in names)


def started(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "weightsmith", "merge", str(recipe), str(out), *SHARDS, "--on-nan", "warn"]
    return subprocess.Popen([*command, "--ray", "local"], cwd=recipe.parent)


def at_work(parent: subprocess.Popen[bytes]) -> list[int]:
    """Ray's processes that make a shard at this moment."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and (folder / "cmdline").read_bytes().startswith(b"ray::_make_shard"):
                found.append(int(folder.name))
        except OSError:
            continue
    assert parent.poll() is None, "the merge ended before a worker could be killed"
    return found


def test_workers_make_the_same_bytes_though_one_is_killed(recipe: Path, tmp_path: Path) -> None:
    merge = started(recipe, tmp_path / "out")
    while not (workers := at_work(merge)):
        time.sleep(0.005)
    os.kill(workers[0], signal.SIGKILL)
    assert merge.wait(timeout=120) == 0
    assert same(tmp_path / "out", recipe.parent / "whole")
    assert weightsmith_process("verify", tmp_path / "out").returncode == 0


def test_a_killed_merge_goes_on_without_ray(recipe: Path, tmp_path: Path) -> None:
    merge = started(recipe, tmp_path / "out")
    journal = scratch_of(tmp_path / "out") / "journal.jsonl"
    while not (journal.exists() and len(journal.read_text().splitlines()) > 4):
        assert merge.poll() is None
        time.sleep(0.005)
    merge.kill()
    merge.wait()
    done = weightsmith_process("merge", recipe, tmp_path / "out", *SHARDS, "--on-nan", "warn", cwd=recipe.parent)
    assert done.returncode == 0 and "tensors were finished before" in done.stdout, done.stderr
    assert same(tmp_path / "out", recipe.parent / "whole")


def test_what_a_worker_refuses_is_one_message(recipe: Path, tmp_path: Path) -> None:
    done = weightsmith_process("merge", recipe, tmp_path / "out", *SHARDS, "--ray", "local", cwd=recipe.parent)
    assert done.returncode == 2 and len(stderr_lines(done)) == 1, done.stderr
    assert "tensor 'net.39.w' holds 1 NaN" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_cluster_that_is_not_there(recipe: Path, tmp_path: Path) -> None:
    done = weightsmith_process("merge", recipe, tmp_path / "out", "--ray", "127.0.0.1:1", cwd=recipe.parent)
    assert done.returncode == 2 and "--ray 127.0.0.1:1: no such cluster" in done.stderr


def test_more_threads_than_any_machine_has(recipe: Path, tmp_path: Path) -> None:
    done = weightsmith_process(
        "merge", recipe, tmp_path / "out", "--ray", "local", "--threads", "4096", cwd=recipe.parent, timeout=60
    )
    assert done.returncode == 2 and "--threads 4096: no machine of the cluster" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_worker_that_sees_other_files(recipe: Path, tmp_path: Path) -> None:
    here = Path.cwd()
    order = RayJob(recipe, recipe.read_text(), recipe.parent, tmp_path, {}, 1000, 1, 0, False, "cpu", None, {}, False)
    try:
        with pytest.raises(MergeError, match="sees another device, inputs, layout, recipe, seed, version than"):
            _make_shard(replace(order, seed=1), ["net.1.w"])
    finally:
        os.chdir(here)


def test_a_worker_reads_the_mappings_too(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent)
    mapping = tmp_path / "a.json"
    mapping.write_text("{}")
    plan = make_plan(load_recipe(recipe))
    run = run_digest(plan, 1000, 0, "cpu", {"a": mapping})
    assert run["mappings"]
    job = RayJob(
        recipe, recipe.read_text(), recipe.parent, tmp_path, run, 1000, 1, 0, False, "cpu", None, {"a": mapping}, False
    )
    _check_same(plan, job)
    mapping.write_text("[]")
    with pytest.raises(MergeError, match="sees another mappings than"):
        _check_same(plan, job)


def test_without_ray_a_merge_does_not_import_it(recipe: Path, tmp_path: Path) -> None:
    code = f"import sys, weightsmith; weightsmith.merge({str(recipe)!r}, {str(tmp_path / 'out')!r}, on_nan='warn'); "
    command = [sys.executable, "-c", code + "assert not {'ray', 'torch'} & set(sys.modules)"]
    assert subprocess.run(command, check=False, cwd=recipe.parent).returncode == 0
    assert weightsmith.verify(tmp_path / "out").sound
