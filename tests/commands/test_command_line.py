"""What the command line promises beyond its results: exit codes, imports, Ctrl-C, a full disk."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import SKILLS, weightsmith_process
from weightsmith.commands.app import command_names


def real_recipe(smollm: Path, folder: Path) -> Path:
    from weightsmith.demo.run_demo import PACKAGE

    models = [{"model": f"{smollm}+{PACKAGE / 'adapters' / s}", "parameters": {"weight": 1}} for s in SKILLS]
    path = folder / "recipe.yml"
    path.write_text(yaml.safe_dump({"merge_method": "linear", "models": models, "dtype": "float32"}))
    return path


@pytest.mark.parametrize(
    "arguments",
    [(), ("merge",), ("frobnicate",), ("merge", "a", "b", "--nonsense"), ("merge", "a", "b", "--threads", "0")],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    done = weightsmith_process(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Usage" in done.stdout + done.stderr


@pytest.mark.parametrize("command", command_names())
def test_every_command_explains_itself(command: str) -> None:
    done = weightsmith_process(command, "--help")
    assert done.returncode == 0
    assert f"Example: weightsmith {command}" in done.stdout.splitlines()[2]  # before all else


def test_a_shell_completes_commands_and_options() -> None:
    def completed(words: str, position: int) -> list[str]:
        shell = {"_WEIGHTSMITH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(position)}
        script = Path(sys.executable).with_name("weightsmith")
        done = subprocess.run([script], capture_output=True, text=True, check=False, env=os.environ | shell)
        return done.stdout.split()

    assert completed("weightsmith me", 1) == ["merge", "methods"]
    assert "--out-shard-size" in completed("weightsmith merge --out", 2)
    environment = os.environ | {
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"
    }  # else it is that of who runs the tests
    assert "complete_bash" in weightsmith_process("--show-completion", "bash", env=environment).stdout


def test_help_imports_nothing_heavy() -> None:
    script = "import sys, weightsmith.commands.app as m\ntry: m.app(['--help'])\nexcept SystemExit: pass\n"
    script += "print([n for n in ('torch', 'numpy', 'transformers', 'pydantic') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_merging_folders_does_not_import_transformers(chat_models: Path, tmp_path: Path) -> None:
    models = [{"model": str(chat_models / n), "parameters": {"weight": 1}} for n in "ab"]
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump({"merge_method": "linear", "models": models}))
    script = "import sys, weightsmith; weightsmith.merge(*sys.argv[1:]); print('transformers' in sys.modules)"
    command = [sys.executable, "-c", script, str(tmp_path / "recipe.yml"), str(tmp_path / "out")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == (
        chat_models / "a" / "chat_template.jinja"
    ).read_text()


def test_ctrl_c_keeps_what_is_done(smollm: Path, tmp_path: Path) -> None:
    recipe = real_recipe(smollm, tmp_path)
    command = [sys.executable, "-m", "weightsmith", "merge", str(recipe), str(tmp_path / "out")]
    # a test run in a shell's background inherits an ignored SIGINT; a person's terminal does not
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    try:
        while not list(tmp_path.glob(".out.partial/journal.jsonl")):
            assert process.poll() is None, "the merge ended before it could be interrupted"
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert messages.strip().splitlines()[-1] == "weightsmith: interrupted"
    assert "Traceback" not in messages
    assert "resume it with the same command" in messages
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.partial", "recipe.yml"]


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 4 MB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk(small_disk: Path, whole_vocabulary: Path, tmp_path: Path) -> None:
    models = [{"model": str(whole_vocabulary / n), "parameters": {"weight": 1}} for n in "ab"]
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump({"merge_method": "linear", "models": models}))
    for command in (
        ("merge", tmp_path / "recipe.yml", small_disk / "out"),
        ("export", whole_vocabulary / "a", small_disk / "out.gguf"),
    ):
        done = weightsmith_process(*command)
        assert done.returncode == 2, done.stderr
        assert "the disk is full" in done.stderr
        assert list(small_disk.iterdir()) == []


def test_disk_that_fills_up_while_writing(small_disk: Path, whole_vocabulary: Path, tmp_path: Path) -> None:
    # the check beforehand is told of more room than there is, as when another program takes it meanwhile
    models = [{"model": str(whole_vocabulary / n), "parameters": {"weight": 1}} for n in "ab"]
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump({"merge_method": "linear", "models": models}))
    script = (
        "import shutil, sys; room = shutil.disk_usage('/'); shutil.disk_usage = lambda path: room._replace(free=1 "
        "<< 40)\n"
        "sys.argv[0] = 'weightsmith'\nfrom weightsmith.commands.app import main; main()"
    )
    command = [sys.executable, "-c", script, "merge", str(tmp_path / "recipe.yml"), str(small_disk / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "the disk is full" in done.stderr
    assert list(small_disk.iterdir()) == []


def test_dry_run_writes_nothing(models: Path, tmp_path: Path) -> None:
    entries = [{"model": str(models / n), "parameters": {"weight": 1}} for n in "ab"]
    (tmp_path / "recipe.yml").write_text(json.dumps({"merge_method": "linear", "models": entries}))
    done = weightsmith_process("merge", tmp_path / "recipe.yml", tmp_path / "out", "--dry-run")
    assert done.returncode == 0
    assert re.search(
        r"model\.layers\.\*\.mlp\.down_proj\.weight +3 +\d+x\d+ +F32 +F32 +weight 1, 1; normalize yes\n", done.stdout
    )
    assert "\nlinear: 2 models, 30 tensors" in done.stdout
    match = re.search(r"about \d+ s on \d+ threads, .*; (\d+) MB of memory; \d+ MB of disk, .* are free", done.stdout)
    assert match, done.stdout
    assert 50 < int(match[1]) < 1000
    assert os.listdir(tmp_path) == ["recipe.yml"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    done = weightsmith_process("merge", tmp_path / "recipe.yml", tmp_path / "out", "--dry-run")
    assert done.returncode == 2 and "not empty" in done.stderr


def test_dry_run_refuses_a_disk_that_is_too_small(models: Path, tmp_path: Path) -> None:
    entries = [{"model": str(models / n), "parameters": {"weight": 1}} for n in "ab"]
    (tmp_path / "recipe.yml").write_text(json.dumps({"merge_method": "linear", "models": entries}))
    script = (
        "import shutil, weightsmith.commands.app as main; usage = shutil.disk_usage; "
        "shutil.disk_usage = lambda path: usage(path)._replace(free=1 << 20); main.main()"
    )
    command = [sys.executable, "-c", script, "merge", str(tmp_path / "recipe.yml"), str(tmp_path / "out"), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "the disk is full" in done.stderr


def test_a_dry_run_shows_a_parameter_that_some_slices_leave_out(models: Path, tmp_path: Path) -> None:
    """Depth up-scaling: the copied layers' outputs are scaled to zero, the others not at all."""
    source = {"model": str(models / "a"), "layer_range": [0, 2]}
    zeroed = {**source, "parameters": {"scale": [{"filter": "o_proj", "value": 0.0}, {"value": 1.0}]}}
    recipe = {"merge_method": "passthrough", "slices": [{"sources": [source]}, {"sources": [zeroed]}]}
    (tmp_path / "r.yml").write_text(yaml.safe_dump(recipe))
    process = weightsmith_process("merge", tmp_path / "r.yml", tmp_path / "out", "--dry-run")
    assert process.returncode == 0, process.stderr
    assert "scale none or" in process.stdout


def test_ctrl_c_while_modules_are_imported() -> None:
    code = """
import sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
from weightsmith.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130 and done.stderr == "weightsmith: interrupted\n"


@pytest.mark.parametrize(("set_to", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_do_not_spin(set_to: str | None, expected: str) -> None:
    code = """
import os, sys
from weightsmith.__main__ import main
sys.argv = ["weightsmith", "--version"]
try:
    main()
finally:
    print(os.environ["OMP_WAIT_POLICY"])
"""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": set_to} if set_to else {}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.splitlines()[-1] == expected
